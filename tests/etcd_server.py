"""A real etcd for tests: mutual TLS, certificate names as users, one process, no fixed port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import grpc
import trustme

from lepton_local.etcd import etcd_command, provision_auth
from lepton_local.programs import find_etcd, packaged_etcd
from lepton_local.tls_files import TlsFiles
from lepton_mesh.connect import CHANNEL_OPTIONS
from lepton_mesh.etcd import EtcdClient, KeyValue
from lepton_mesh.etcd.v3 import etcd_pb2 as pb

DNS_NAME = "etcd.lepton.internal"


def binaries() -> list[Path]:
    """Every etcd that is installed: the system's and the packaged one."""
    found = [find_etcd()]
    packaged = packaged_etcd()
    if packaged is not None and packaged not in found:
        found.append(packaged)
    return found


async def find(client: EtcdClient, key: str) -> KeyValue | None:
    """The key, or None where it does not exist."""
    listing = await client.range_prefix(key)
    return next((item for item in listing.items if item.key == key), None)


async def compact(client: EtcdClient, revision: int) -> None:
    """Has etcd forget the history before ``revision``; for root only."""
    await client.transport.unary(
        "/etcdserverpb.KV/Compact",
        pb.CompactionRequest(revision=revision, physical=True),
        pb.CompactionResponse,
        safe=False,
        timeout_seconds=10,
    )


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class TestAuthority:
    """An authority of the test's own; certificates by common name."""

    __test__ = False

    def __init__(self) -> None:
        self._authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.ca_pem = self._authority.cert_pem.bytes()

    def issue(self, common_name: str, *dns_names: str) -> tuple[bytes, bytes]:
        """PEM of (private key, certificate chain), for 127.0.0.1 and ``dns_names``."""
        names = dns_names or (f"{common_name}.lepton.internal",)
        issued = self._authority.issue_cert(
            *names, "127.0.0.1", common_name=common_name, key_type=trustme.KeyType.ECDSA
        )
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return issued.private_key_pem.bytes(), chain

    def write(self, common_name: str, directory: Path) -> TlsFiles:
        """Issues a certificate into ``directory``: cert.pem, key.pem, ca.pem."""
        directory.mkdir(parents=True, exist_ok=True)
        key, chain = self.issue(common_name)
        files = TlsFiles.of(directory)
        files.key.write_bytes(key)
        files.certificate.write_bytes(chain)
        files.authority.write_bytes(self.ca_pem)
        return files

    def connect(self, address: str, common_name: str, server_name: str) -> grpc.aio.Channel:
        """A channel with a certificate of its own, as ``common_name``."""
        key, chain = self.issue(common_name)
        return grpc.aio.secure_channel(
            address,
            grpc.ssl_channel_credentials(self.ca_pem, key, chain),
            options=[*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", server_name)],
        )


class EtcdServer:
    """One etcd process on a free port of 127.0.0.1.

    Args:
        binary: The program; None finds one.
        directory: Where it keeps its data, certificate and log.
        files: Its certificate and its clients' authority. None makes an
            authority of its own (``authority``), with which :meth:`client` works.
    """

    def __init__(self, binary: Path | None, directory: Path, files: TlsFiles | None = None) -> None:
        self.authority = TestAuthority()
        self.address = f"127.0.0.1:{free_port()}"
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        files = files or self.authority.write("etcd", directory / "tls")
        self._command = etcd_command(
            binary or find_etcd(), data_dir=directory, client_address=self.address, files=files
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait_seconds: float = 15.0) -> None:
        """Starts it and returns when its port answers.

        Raises:
            RuntimeError: It ended, or did not answer in time; with its log.
        """
        log = (self.directory / "etcd.log").open("ab")
        # Not fsyncing is for tests only: their data need not outlive the machine.
        command = [*self._command, "--unsafe-no-fsync"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_")}
        with log:
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + wait_seconds
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(
                    f"etcd did not start\n{(self.directory / 'etcd.log').read_text()}"
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it as an operator would, and waits."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """``kill -9``, and waits."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Deletes the data of a server that does not run."""
        shutil.rmtree(self.directory / "data")

    def client(self, common_name: str = "root", timeout_seconds: float = 10.0) -> EtcdClient:
        """A client whose user is ``common_name``."""
        return EtcdClient(
            [self.address],
            lambda address: self.authority.connect(address, common_name, DNS_NAME),
            timeout_seconds,
        )

    async def provision(self, services: Iterable[str]) -> None:
        """Users for ``services``, ``job`` and ``root``; authentication on."""
        client = self.client()
        try:
            await provision_auth(client, services)
        finally:
            await client.close()

    def _answers(self) -> bool:
        host, port = self.address.split(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("etcd does not run")
        return self._process

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
