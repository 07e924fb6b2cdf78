"""Starts a stack, keeps it running, and ends it: ``python -m lepton_local.supervisor``.

The order is that of trust: the authority's files, then etcd with a certificate of
it, then auth, which lets the others join, then all others at once. A process that
ends by itself is started again, ever more slowly while it keeps ending.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from lepton_local import log_files, ports, processes
from lepton_local.authority import Authority
from lepton_local.errors import StartFailed
from lepton_local.etcd import etcd_command, provision_auth
from lepton_local.home import SERVICES, Home, ProcessRecord, StackRecord
from lepton_local.listener import Listener
from lepton_local.mesh import etcd_client, forget_instances, gateway_serves, unready
from lepton_local.processes import Program
from lepton_local.programs import find_etcd
from lepton_local.tls_files import TlsFiles
from lepton_mesh import logs
from lepton_mesh.errors import LeptonError
from lepton_mesh.etcd import EtcdClient

log = logging.getLogger("lepton_local.supervisor")

_READY_TIMEOUT_SECONDS = 60.0
_STOP_GRACE_SECONDS = 15.0
_POLL_SECONDS = 0.05
_LOOK_SECONDS = 0.2
_FAILED_LOOK_SECONDS = 5.0
_JOB_MODULE = "lepton_training.worker"
_STOP_ORDER = (
    ("gateway",),
    ("inference", "training"),
    ("registry", "storage"),
    ("auth",),
    ("etcd",),
)
"""Who calls stops before who is called."""
_RENEW_SECONDS = 30 * 60
_TRIM_SECONDS = 30.0
_ASLEEP_SECONDS = 60.0
"""How far the wall clock may run ahead of the one that stands still in sleep."""
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_STEADY_SECONDS = 60.0
"""A process that ran this long starts afresh when it ends: its pause is the first again."""


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    record: ProcessRecord
    began: float
    pause: float = _FIRST_PAUSE_SECONDS
    restart_at: float | None = None
    """When it is started again, once it has ended; monotonic seconds."""


class Supervisor:
    """One stack. Call :meth:`run` once.

    Args:
        home: Its directory.
        listener: Where users' connections are accepted.
    """

    def __init__(self, home: Home, listener: Listener) -> None:
        self._home = home
        self._began = time.monotonic()
        self._stopping = asyncio.Event()
        self._children: dict[str, _Child] = {}
        etcd, join, free = ports.free_ports(ports.LOOPBACK, ports.LOOPBACK, listener.host)
        self._listener = replace(listener, port=listener.port or free)
        self._record = StackRecord(
            state="STARTING",
            supervisor=processes.record_of(os.getpid()),
            gateway=self._listener.address,
            etcd=f"{ports.LOOPBACK}:{etcd}",
            join=f"{ports.LOOPBACK}:{join}",
        )

    def stop(self) -> None:
        """Makes :meth:`run` end the stack and return."""
        self._stopping.set()

    async def run(self) -> bool:
        """Runs the stack until :meth:`stop`; False when it could not be started."""
        started = False
        try:
            await self._start()
            started = True
            await self._supervise()
        except (LeptonError, OSError) as error:
            log.error("stack failed", extra={"error": str(error)})  # noqa: TRY400  # expected
            self._record.error = str(error)
        except Exception:
            log.exception("stack failed")
            self._record.error = f"an internal error; {self._home.log('supervisor')} tells more"
        finally:
            self._record.state = "STOPPING"
            self._write_record_if_possible()
            await self._end()
        if started and not self._record.error:
            self._home.forget()
        else:
            self._record.state = "FAILED"
            self._record.processes = {}
            self._write_record_if_possible()
        return started

    async def _start(self) -> None:
        self._step("making certificates")
        self._authority = Authority.of(self._home)
        await self._authority.issue_own()
        self._step("starting etcd")
        self._etcd_program = await asyncio.to_thread(find_etcd)
        self._spawn_etcd()
        async with self._etcd() as client:
            await provision_auth(client, SERVICES)
            await forget_instances(client)
            # All at once: the others wait for auth's join listener while they import.
            self._step("starting the services")
            for service in SERVICES:
                await self._spawn_service(service)
            await self._wait_ready(client)
        self._record.state = "READY"
        self._record.seconds_to_ready = round(time.monotonic() - self._began, 2)
        self._home.write(self._record)
        log.info("stack ready", extra={"seconds": self._record.seconds_to_ready})

    async def _wait_ready(self, client: EtcdClient) -> None:
        waiting = list(SERVICES)
        try:
            async with asyncio.timeout(_READY_TIMEOUT_SECONDS):
                while waiting := await unready(client, self._authority.files, waiting):
                    self._check_children()
                    self._step(f"waiting for {', '.join(waiting)}")
                    await asyncio.sleep(_POLL_SECONDS)
                # Instances that serve are of no use to users before the gateway knows them.
                waiting = ["gateway"]
                self._step("waiting for the gateway to find them")
                while not await asyncio.to_thread(
                    gateway_serves, self._record.gateway, self._home.ca_file
                ):
                    self._check_children()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise StartFailed(
                f"{', '.join(waiting)} did not become ready within {_READY_TIMEOUT_SECONDS:.0f} s; "
                f"see the logs in {self._home.logs}"
            ) from None

    async def _supervise(self) -> None:
        renewed = trimmed = time.monotonic()
        offset = _clock_offset()
        while not self._stopping.is_set():
            pause = _LOOK_SECONDS
            try:
                await self._restart_ended()
                if _clock_offset() - offset > _ASLEEP_SECONDS:
                    await self._after_sleep()
                    offset = _clock_offset()
                if time.monotonic() - renewed > _RENEW_SECONDS:
                    # etcd reads its files anew at each handshake.
                    await self._authority.issue_own()
                    renewed = time.monotonic()
                if time.monotonic() - trimmed > _TRIM_SECONDS:
                    trimmed = time.monotonic()
                    await asyncio.to_thread(self._trim_logs)
            except Exception:
                # A full disk or a locked database: a stack that serves must not end for it.
                log.exception("look failed", extra={"again_in_seconds": _FAILED_LOOK_SECONDS})
                pause = _FAILED_LOOK_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    def _trim_logs(self) -> None:
        for name in (*SERVICES, "etcd", "supervisor"):
            log_files.keep_small(self._home.log(name))

    async def _after_sleep(self) -> None:
        """A machine that slept longer than certificates live: every service joins anew."""
        log.warning("machine was asleep, all join anew")
        await self._authority.issue_own()
        for service in SERVICES:
            if service != "auth":
                await self._write_join_token(service)

    async def _restart_ended(self) -> None:
        """Starts again what has ended and has waited its pause; waits for none of them."""
        for name, child in list(self._children.items()):
            status = child.process.poll()
            if status is None:
                continue
            if child.restart_at is None:
                if time.monotonic() - child.began > _STEADY_SECONDS:
                    child.pause = _FIRST_PAUSE_SECONDS
                log.warning(
                    "process ended",
                    extra={"child": name, "status": status, "again_in_seconds": child.pause},
                )
                child.restart_at = time.monotonic() + child.pause
            elif time.monotonic() >= child.restart_at:
                await self._restart(name, child)

    async def _restart(self, name: str, child: _Child) -> None:
        if name == "etcd":
            self._spawn_etcd()
        else:
            await self._spawn_service(name)
        started = self._children[name]
        started.pause = min(2 * child.pause, _LONGEST_PAUSE_SECONDS)
        started.record = ProcessRecord(
            started.record.pid, started.record.started, child.record.restarts + 1
        )
        self._record.processes[name] = started.record
        self._write_record_if_possible()

    async def _end(self) -> None:
        try:
            for names in _STOP_ORDER:
                await asyncio.gather(
                    *(
                        processes.stop(self._children[name].process, _STOP_GRACE_SECONDS)
                        for name in names
                        if name in self._children
                    )
                )
                if "training" in names:
                    # Jobs outlive their service, so that it may restart; now it will not, and
                    # what they would register with is still up: they checkpoint and end.
                    jobs = await asyncio.to_thread(processes.running, self._home, _JOB_MODULE)
                    await asyncio.to_thread(processes.end, jobs, _STOP_GRACE_SECONDS)
        finally:
            await asyncio.to_thread(processes.end, processes.belonging_to(self._home), 5.0)

    def _write_record_if_possible(self) -> None:
        """For moments in which a full disk must not keep the supervisor from its work."""
        try:
            self._home.write(self._record)
        except OSError as error:
            log.warning("record not written", extra={"error": str(error)})

    def _check_children(self) -> None:
        if self._stopping.is_set():
            raise StartFailed("stopped before it was ready")
        for name, child in self._children.items():
            if child.process.poll() is not None:
                lines = log_files.last_lines(self._home.log(name), 5)
                raise StartFailed(
                    f"{name} ended with {child.process.returncode} at its start; the end of "
                    f"{self._home.log(name)}:\n" + "\n".join(lines)
                )

    def _step(self, text: str) -> None:
        if self._record.step != text:
            self._record.step = text
            self._home.write(self._record)
            log.info("stack starting", extra={"step": text})

    def _spawn(self, program: Program, cwd: Path) -> None:
        process = processes.start(program, cwd)
        record = processes.record_of(process.pid)
        self._children[program.name] = _Child(process, record, time.monotonic())
        self._record.processes[program.name] = record
        self._write_record_if_possible()

    def _spawn_etcd(self) -> None:
        directory = self._home.service("etcd")
        files = TlsFiles(directory / "cert.pem", directory / "key.pem", self._home.ca_file)
        command = etcd_command(
            self._etcd_program,
            data_dir=directory,
            client_address=self._record.etcd,
            files=files,
        )
        environ = processes.base_environ(self._home)
        self._spawn(Program("etcd", command, environ, self._home.log("etcd")), directory)

    async def _spawn_service(self, service: str) -> None:
        directory = self._home.service(service)
        directory.mkdir(mode=0o700, exist_ok=True)
        environ = {
            **processes.base_environ(self._home),
            "LEPTON_STATE_DIR": str(directory),
            "LEPTON_ETCD_ENDPOINTS": self._record.etcd,
        }
        argv = [sys.executable, "-m", f"lepton_{service}"]
        if service == "auth":
            argv.append("serve")
            environ["LEPTON_JOIN_LISTEN_PORT"] = self._record.join.rpartition(":")[2]
        else:
            environ["LEPTON_JOIN_ADDRESS"] = self._record.join
            environ["LEPTON_JOIN_TOKEN_FILE"] = str(await self._write_join_token(service))
        if service == "gateway":
            environ["LEPTON_GATEWAY_HOST"] = self._listener.host
            environ["LEPTON_GATEWAY_PORT"] = str(self._listener.port)
        self._spawn(Program(service, argv, environ, self._home.log(service)), directory)

    async def _write_join_token(self, service: str) -> Path:
        if service != "gateway":
            return await self._authority.write_join_token(service)
        return await self._authority.write_join_token(
            service, self._listener.dns_names(), self._listener.ip_addresses()
        )

    @contextlib.asynccontextmanager
    async def _etcd(self) -> AsyncIterator[EtcdClient]:
        async with etcd_client(self._record.etcd, self._authority.files) as client:
            yield client


def _clock_offset() -> float:
    """Wall clock less monotonic clock: it jumps when the machine wakes from sleep."""
    return time.time() - time.monotonic()


async def _run(home: Home, listener: Listener) -> int:
    supervisor = Supervisor(home, listener)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    return 0 if await supervisor.run() else 1


def main() -> None:
    """The process that `lepton up` leaves behind, and that it hands the home's lock to."""
    parser = argparse.ArgumentParser(prog="lepton_local.supervisor")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--lock", type=int, required=True)
    parser.add_argument("--gateway-host", required=True)
    parser.add_argument("--gateway-port", type=int, required=True)
    parser.add_argument("--gateway-name", action="append", default=[])
    arguments = parser.parse_args()
    logs.configure("supervisor", "local")
    # The lock of the home: open, and thereby held, until this process ends.
    os.set_inheritable(arguments.lock, False)
    listener = Listener(
        arguments.gateway_host, arguments.gateway_port, tuple(arguments.gateway_name)
    )
    sys.exit(asyncio.run(_run(Home(arguments.home), listener)))


if __name__ == "__main__":
    main()
