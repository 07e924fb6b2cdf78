"""Who gets in, who does not, and what happens to connections as certificates change."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from lepton_mesh import credential_files
from lepton_mesh.balancer import BalancedChannel
from lepton_mesh.connect import CHANNEL_OPTIONS
from lepton_mesh.errors import LeptonError
from lepton_mesh.interceptors.status import from_rpc_error
from lepton_mesh.pki import CertificateAuthority, serial_hex
from lepton_mesh.spiffe import dns_name
from lepton_mesh.tls import client_channel, connector

from .conftest import (
    MakeIdentity,
    OneInstance,
    Serving,
    call_echo,
    renewer_of,
    serve_echo,
)

pytestmark = pytest.mark.integration


def reason(error: grpc.aio.AioRpcError) -> str:
    translated = from_rpc_error(error)
    assert isinstance(translated, LeptonError)
    return translated.reason


async def test_peers_of_the_mesh_see_each_other(
    serving: Serving, make_identity: MakeIdentity
) -> None:
    address = await serve_echo(serving, make_identity("storage"))
    client = make_identity("training")
    async with client_channel(address, client, "storage") as channel:
        assert await call_echo(channel) == serial_hex(client.credentials.leaf)


async def test_a_client_without_certificate_is_refused_in_the_handshake(
    serving: Serving, make_identity: MakeIdentity
) -> None:
    server = make_identity("storage")
    address = await serve_echo(serving, server)
    credentials = grpc.ssl_channel_credentials(server.trust_bundle_pem)
    options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", dns_name("storage"))]
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call_echo(channel, seconds=3)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_of_another_authority_is_refused(
    serving: Serving, make_identity: MakeIdentity
) -> None:
    server = make_identity("storage")
    address = await serve_echo(serving, server)
    foreign = CertificateAuthority.create_root("lepton.test").create_intermediate()
    client = make_identity("training", by=foreign)
    credentials = grpc.ssl_channel_credentials(
        server.trust_bundle_pem, client.private_key_pem, client.certificate_chain_pem
    )
    options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", dns_name("storage"))]
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call_echo(channel, seconds=3)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("other", ["registry", "auth"])
async def test_a_server_with_another_services_certificate_is_not_spoken_to(
    serving: Serving, make_identity: MakeIdentity, other: str
) -> None:
    address = await serve_echo(serving, make_identity(other))
    async with client_channel(address, make_identity("training"), "storage") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call_echo(channel, seconds=3)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "Hostname Verification" in str(raised.value.details())


async def test_an_open_connection_is_refused_when_its_certificate_has_ended(
    serving: Serving, make_identity: MakeIdentity
) -> None:
    address = await serve_echo(serving, make_identity("storage"))
    client = make_identity("training", seconds=2.5)
    async with client_channel(address, client, "storage") as channel:
        await call_echo(channel)
        left = client.credentials.not_after - datetime.now(UTC)
        await asyncio.sleep(left.total_seconds() + 0.01)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call_echo(channel)
    assert reason(raised.value) == "PEER_CERTIFICATE_EXPIRED"


async def test_an_open_connection_is_refused_when_its_certificate_is_revoked(
    serving: Serving, make_identity: MakeIdentity
) -> None:
    address = await serve_echo(serving, make_identity("storage"))
    client = make_identity("training")
    async with client_channel(address, client, "storage") as channel:
        await call_echo(channel)
        serving.denylist.replace([serial_hex(client.credentials.leaf)])
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call_echo(channel)
    assert reason(raised.value) == "PEER_CERTIFICATE_REVOKED"


async def test_another_trust_domain_is_refused_although_its_chain_holds(
    serving: Serving, make_identity: MakeIdentity
) -> None:
    address = await serve_echo(serving, make_identity("storage"))
    client = make_identity("training", trust_domain="other.test")
    async with client_channel(address, client, "storage") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call_echo(channel)
    assert reason(raised.value) == "PEER_UNTRUSTED"


async def test_rotations_under_load_lose_no_call(
    serving: Serving, make_identity: MakeIdentity, authority: CertificateAuthority
) -> None:
    server, client = make_identity("storage"), make_identity("training")
    address = await serve_echo(serving, server)
    channel = BalancedChannel(OneInstance(address), "storage", connector(client, "storage"))
    client.on_rotate(channel.refresh)
    used: set[str] = set()
    calls = 0
    stop = asyncio.Event()

    async def load() -> None:
        nonlocal calls
        while not stop.is_set():
            used.add(await call_echo(channel))
            calls += 1

    workers = [asyncio.create_task(load()) for _ in range(8)]
    for _ in range(6):
        await server.renew(renewer_of(authority, server.spiffe_id))
        await client.renew(renewer_of(authority, client.spiffe_id))
        new = serial_hex(client.credentials.leaf)
        async with asyncio.timeout(10):
            while new not in used:
                assert not any(worker.done() for worker in workers)
                await asyncio.sleep(0)
        # A handshake after the rotation gets the certificate of after the rotation.
        certificate = await asyncio.to_thread(server_certificate, address, client.directory)
        assert certificate == server.credentials.leaf.public_bytes(serialization.Encoding.DER)
    stop.set()
    await asyncio.gather(*workers)
    await channel.close()
    assert calls > 100
    assert len(used) >= 6


def server_certificate(address: str, files: Path) -> bytes:
    """The leaf that a new connection gets, DER."""
    context = ssl.create_default_context(cafile=f"{files}/{credential_files.TRUST_BUNDLE}")
    context.load_cert_chain(
        f"{files}/{credential_files.CERTIFICATE}", f"{files}/{credential_files.KEY}"
    )
    context.set_alpn_protocols(["h2"])
    host, port = address.split(":")
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain, server_hostname=dns_name("storage")) as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate
