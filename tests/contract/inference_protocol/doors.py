"""The doors at which the protocol is served, with one way to knock at each.

asgi      Envoy with Python inside, in the clear
grpc      grpc.aio, in the clear, without REST
mtls      Envoy with Python inside, with mutual TLS, as other services of the mesh reach it
gateway   the gateway's Envoy in front of ``mtls``: TLS and a token, as users reach it
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx

from tests.integration.gateway.world import TRUST_DOMAIN, World, eventually

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))
from data_plane import OpenGate, data_plane, load_models, protocol

from lepton_inference.envoy import MutualTls
from lepton_inference.grpc_port import GrpcPort
from lepton_inference.serving import Serving
from lepton_inference.settings import ModelSettings
from lepton_mesh.discovery import Instance

Serve = Callable[[MutualTls], contextlib.AbstractAsyncContextManager[tuple[str, int]]]

MAX_MESSAGE_BYTES = 64 << 20
_TOKEN_SECONDS = 7200


@dataclass(frozen=True)
class Server:
    """A server of the protocol, and what it takes to be let in."""

    address: str
    """``host:port``"""
    rest: bool
    """Whether it serves REST beside gRPC."""
    pid: int
    """The process that must stay alive; 0 for this one."""
    authority: str = ""
    """File of the root certificate; "" in the clear."""
    certificate: str = ""
    """File of the client's certificate; "" where none is asked for."""
    key: str = ""
    """File of the client's private key."""
    token: str = ""
    """For the authorization header; "" for none."""

    def as_json(self) -> str:
        """What ``public_client.py`` and its like are told."""
        return json.dumps(dataclasses.asdict(self))

    def channel(self) -> grpc.Channel:
        """A gRPC channel whose calls are let in."""
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if not self.authority:
            return grpc.insecure_channel(self.address, options)
        certificate = Path(self.certificate).read_bytes() if self.certificate else None
        key = Path(self.key).read_bytes() if self.key else None
        credentials = grpc.ssl_channel_credentials(
            Path(self.authority).read_bytes(), key, certificate
        )
        if self.token:
            credentials = grpc.composite_channel_credentials(
                credentials, grpc.access_token_call_credentials(self.token)
            )
        return grpc.secure_channel(self.address, credentials, options)

    def http(self) -> httpx.Client:
        """An HTTP client whose requests are let in."""
        if not self.authority:
            return httpx.Client(base_url=f"http://{self.address}", timeout=30)
        context = ssl.create_default_context(cafile=self.authority)
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key)
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.Client(
            base_url=f"https://{self.address}", timeout=30, verify=context, headers=headers
        )


def ask(client: Path, *arguments: str, python: str = sys.executable) -> dict[str, Any]:
    """What a client saw, which runs as a process and prints it as one line of JSON."""
    done = subprocess.run(
        [python, str(client), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextlib.asynccontextmanager
async def asgi(models: dict[str, Path]) -> AsyncIterator[Server]:
    """Envoy with Python inside, in the clear."""
    async with data_plane(models) as (address, pid):
        yield Server(address, rest=True, pid=pid)


@contextlib.asynccontextmanager
async def grpc_port(models: dict[str, Path]) -> AsyncIterator[Server]:
    """grpc.aio, in the clear."""
    serving = Serving()
    load_models(serving, models, ModelSettings())
    port = GrpcPort(protocol(serving), OpenGate(serving), lambda _: None, MAX_MESSAGE_BYTES)
    address = await port.start(None, "127.0.0.1", 0)
    try:
        yield Server(address, rest=False, pid=0)
    finally:
        await port.stop(1)


@contextlib.asynccontextmanager
async def secured(
    serve: Serve, directory: Path, instances: int = 1
) -> AsyncIterator[tuple[Server, Server]]:
    """A data port with mutual TLS, and the gateway in front of it: (``mtls``, ``gateway``).

    Args:
        serve: Runs the data port with that TLS; gives its address and process id.
        directory: For certificates and the gateway's files.
        instances: Data ports behind the gateway; the first of them is ``mtls``.
    """
    world = World(directory)
    identity = world.authority.issue("inference", dns=["localhost"], ips=["127.0.0.1"])
    caller = world.gateway_identity()
    for name, content in (
        ("ca.pem", world.authority.root_pem),
        ("cert.pem", identity.certificate_chain_pem),
        ("key.pem", identity.private_key_pem),
        ("caller-cert.pem", caller.certificate_chain_pem),
        ("caller-key.pem", caller.private_key_pem),
    ):
        (directory / name).write_bytes(content)
    authority = str(directory / "ca.pem")
    tls = MutualTls(
        directory / "cert.pem", directory / "key.pem", directory / "ca.pem", TRUST_DOMAIN
    )
    async with contextlib.AsyncExitStack() as stack:
        served = [await stack.enter_async_context(serve(tls)) for _ in range(instances)]
        address, pid = served[0]
        try:
            for number, (each, _) in enumerate(served, start=1):
                name = f"inference-{number}"
                world.view.add(Instance("inference", name, each, ports={"oip": each}))
            await world.serve("auth", "auth-1")
            await world.start_gateway()
            await eventually(world, "/readyz", 200)
            yield (
                Server(
                    address,
                    rest=True,
                    pid=pid,
                    authority=authority,
                    certificate=str(directory / "caller-cert.pem"),
                    key=str(directory / "caller-key.pem"),
                ),
                Server(
                    world.address,
                    rest=True,
                    pid=pid,
                    authority=authority,
                    token=world.key.token(exp=int(time.time()) + _TOKEN_SECONDS),
                ),
            )
        finally:
            await world.close()
