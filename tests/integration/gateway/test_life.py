"""What changes behind and under the gateway while it serves."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2

from lepton.api.storage.v1 import storage_pb2, storage_pb2_grpc
from lepton_gateway.supervisor import EnvoyFailed
from lepton_mesh.discovery import Instance
from lepton_mesh.health import Health
from lepton_mesh.listening import PortInUse
from lepton_mesh.server import DEREGISTERED_SECONDS
from tests.integration.gateway.world import GOOD_KEY, SigningKey, World, eventually, until

pytestmark = pytest.mark.integration


async def storage_world(world: World, **settings: Any) -> Any:
    await world.serve("auth", "auth-1")
    await world.serve("storage", "storage-1")
    await world.start_gateway(**settings)
    await eventually(world, "/readyz", 200)
    return storage_pb2.GetDatasetRequest(name="datasets/a")


async def test_instances_come_and_go_without_a_failed_request(bare_world: World) -> None:
    """Two are replaced one after the other, under load, as a rolling restart does."""
    world = bare_world
    request = await storage_world(world)
    stop = asyncio.Event()
    done = 0

    async def load() -> None:
        nonlocal done
        async with world.channel() as channel:
            stub: Any = storage_pb2_grpc.StorageServiceStub(channel)
            while not stop.is_set():
                await stub.GetDataset(request, metadata=tuple(world.bearer().items()))
                done += 1

    tasks = [asyncio.create_task(load()) for _ in range(4)]
    for old, new in (("storage-1", "storage-2"), ("storage-2", "storage-3")):
        await world.serve("storage", new)
        await until(lambda new=new: new in world.seen.calls)
        world.view.remove("storage", old)
        # As every process of the mesh does: gone from the directory, then a pause, then the end.
        await asyncio.sleep(DEREGISTERED_SECONDS)
        await world.servers.pop(old).stop(grace=5)
    before = done
    await until(lambda: done > before + 50)
    stop.set()
    await asyncio.gather(*tasks)
    assert world.seen.calls["storage-3"] > 0


async def test_an_instance_that_dies_unannounced_costs_nothing(bare_world: World) -> None:
    """Its connections are refused, so its requests go to the other one."""
    world = bare_world
    request = await storage_world(world)
    await world.serve("storage", "storage-2")
    async with asyncio.timeout(10), world.channel() as channel:
        stub: Any = storage_pb2_grpc.StorageServiceStub(channel)
        metadata = tuple(world.bearer().items())
        while "storage-2" not in world.seen.calls:
            await stub.GetDataset(request, metadata=metadata)
        await world.servers.pop("storage-1").stop(grace=0)
        for _ in range(50):
            await stub.GetDataset(request, metadata=metadata)


async def test_a_read_is_not_sent_to_the_dead_instance_again(bare_world: World) -> None:
    """However idle that one looks: nothing runs there."""
    world = bare_world
    request = await storage_world(world)
    metadata = tuple(world.bearer().items())
    async with world.channel() as channel:
        stub: Any = storage_pb2_grpc.StorageServiceStub(channel)
        for number in range(30):
            with socket.create_server(("127.0.0.1", 0)) as gone:
                address = f"127.0.0.1:{gone.getsockname()[1]}"
            world.view.add(Instance(service="storage", instance=f"dead-{number}", address=address))
            if number:
                world.view.remove("storage", f"dead-{number - 1}")
            for _ in range(20):
                await stub.GetDataset(request, metadata=metadata)


async def test_a_peer_with_another_services_certificate_is_refused(bare_world: World) -> None:
    """An address in the directory is not enough: the certificate must be the service's own."""
    world = bare_world
    await world.serve("auth", "auth-1")
    await world.serve("storage", "storage-1", identity=world.authority.issue("training"))
    await world.start_gateway()
    await eventually(world, "/readyz", 200)
    async with world.http() as http:
        response = await http.get("/v1/datasets/a", headers=world.bearer())
    assert response.status_code == 503
    assert response.json()["reason"] == "SERVICE_UNREACHABLE"
    assert "storage-1" not in world.seen.calls


async def test_our_own_certificate_is_rotated(bare_world: World) -> None:
    """Users and services meet the new one; a call that runs meanwhile ends well."""
    world = bare_world
    request = await storage_world(world)
    async with world.channel() as channel:
        stub: Any = storage_pb2_grpc.StorageServiceStub(channel)
        metadata = tuple(world.bearer().items())
        await stub.GetDataset(request, metadata=metadata)
        old = world.identity.serial
        assert await served_serial(world) == old
        assert world.seen.peer_serials == {old}
        world.identity = world.gateway_identity()
        assert world.gateway is not None
        world.gateway._identity = world.identity
        world.gateway.certificate_changed()
        async with asyncio.timeout(10):
            while True:
                if await served_serial(world) == world.identity.serial:
                    break
                await asyncio.sleep(0.01)
        await stub.GetDataset(request, metadata=metadata)
    # A new instance means a new connection, which carries the new certificate.
    await world.serve("storage", "storage-2")
    world.view.remove("storage", "storage-1")
    async with asyncio.timeout(10), world.channel() as channel:
        stub = storage_pb2_grpc.StorageServiceStub(channel)
        while world.identity.serial not in world.seen.peer_serials:
            await stub.GetDataset(request, metadata=metadata)


async def test_signing_keys_rotate_without_closing_connections(bare_world: World) -> None:
    """A token of the new key is taken on the connection that is open, one of a dropped key not."""
    world = bare_world
    request = await storage_world(world)
    async with world.channel() as channel:
        stub: Any = storage_pb2_grpc.StorageServiceStub(channel)
        old = world.bearer()
        await stub.GetDataset(request, metadata=tuple(old.items()))
        new = SigningKey("second")
        world.auth.keys = [new]
        await eventually(
            world, "/v1/datasets/a", 200, authorization=f"Bearer {new.token(sub='users/new')}"
        )
        await stub.GetDataset(request, metadata=(("authorization", f"Bearer {new.token()}"),))
        with pytest.raises(grpc.aio.AioRpcError, match="not one of this cloud"):
            await stub.GetDataset(request, metadata=tuple(old.items()))


async def test_without_the_auth_service(bare_world: World) -> None:
    """503 that names it until its keys are known; then its absence stops no token request."""
    world = bare_world
    await world.serve("storage", "storage-1")
    await world.start_gateway()
    async with world.http() as http:
        response = await http.get("/v1/datasets/a", headers=world.bearer())
        assert response.status_code == 503
        assert "auth service" in response.json()["message"]
        assert (await http.get("/readyz")).status_code == 503
        await world.serve("auth", "auth-1")
        await eventually(world, "/readyz", 200)
        assert (await http.get("/v1/datasets/a", headers=world.bearer())).status_code == 200
        world.view.remove("auth", "auth-1")
        assert (await http.get("/v1/datasets/a", headers=world.bearer())).status_code == 200
        by_key = await http.get("/v1/datasets/a", headers={"x-api-key": GOOD_KEY})
        assert (by_key.status_code, by_key.json()["reason"]) == (503, "AUTH_UNREACHABLE")


async def test_too_many_requests(bare_world: World) -> None:
    """429 and RESOURCE_EXHAUSTED, and login has a limit of its own."""
    world = bare_world
    await storage_world(world, gateway_requests_per_second=10, token_requests_per_second=1)
    async with world.http() as http:
        login = await asyncio.gather(*(http.post("/v1/auth/token", json={}) for _ in range(12)))
        assert {r.status_code for r in login} == {401, 429}
        refused = [r.json()["reason"] for r in login if r.status_code == 429]
        assert set(refused) == {"RATE_LIMITED"}
        answers = await asyncio.gather(
            *(http.get("/v1/datasets/a", headers=world.bearer()) for _ in range(200))
        )
        assert {r.status_code for r in answers} == {200, 429}
    async with world.channel() as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        results = await asyncio.gather(*(call(b"") for _ in range(200)), return_exceptions=True)
        codes = {r.code() for r in results if isinstance(r, grpc.aio.AioRpcError)}
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes


async def test_one_address_does_not_keep_others_from_logging_in(bare_world: World) -> None:
    """What is refused to it is not taken from them."""
    world = bare_world
    await storage_world(world, token_requests_per_second=10, token_requests_per_address=1)
    async with world.http() as greedy, world.http(local_address="127.0.0.2") as other:
        login = [await greedy.post("/v1/auth/token", json={}) for _ in range(40)]
        assert {r.status_code for r in login[:2]} == {401}
        assert login[-1].status_code == 429
        assert (await other.post("/v1/auth/token", json={})).status_code == 401


async def test_old_connections_are_ended_with_grace(bare_world: World) -> None:
    """Clients are told to go, and a call that runs meanwhile ends well."""
    world = bare_world
    request = await storage_world(world, max_connection_age_seconds=0.3)
    request.name = "datasets/slow"
    gateway = world.gateway
    assert gateway is not None
    async with world.http() as http, world.channel() as channel:
        stub: Any = storage_pb2_grpc.StorageServiceStub(channel)
        slow = asyncio.ensure_future(
            stub.GetDataset(request, metadata=tuple(world.bearer().items()))
        )
        await until(lambda: bool(world.seen.calls.get("storage-1")))
        async with asyncio.timeout(10):
            while (await http.get("/healthz")).headers.get("connection") != "close":
                pass
        assert not slow.done()
        world.release.set()
        assert (await slow).name == "datasets/slow"


async def test_cors(bare_world: World) -> None:
    """Only pages of the origins in the settings may call; a preflight needs no token."""
    world = bare_world
    await storage_world(world, cors_origins="https://console.example")
    asks = {"access-control-request-method": "GET"}
    async with world.http() as http:
        ours = await http.options(
            "/v1/datasets/a", headers={"origin": "https://console.example", **asks}
        )
        theirs = await http.options(
            "/v1/datasets/a", headers={"origin": "https://evil.example", **asks}
        )
    assert ours.headers["access-control-allow-origin"] == "https://console.example"
    allowed = ours.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "x-lepton-routing-key"} <= set(allowed)
    assert "access-control-allow-origin" not in theirs.headers


async def test_a_crashed_envoy_is_started_again(bare_world: World) -> None:
    """On the same port, with the configuration of the moment; health says so meanwhile."""
    world = bare_world
    await storage_world(world)
    assert world.gateway is not None
    health = Health(())
    health.serving()
    world.gateway.take_health(health)
    watch = health.Watch(health_pb2.HealthCheckRequest(), None)
    first = world.gateway.envoy.pid
    seen = [(await anext(watch)).status]
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(10):
        seen += [(await anext(watch)).status, (await anext(watch)).status]
    status = health_pb2.HealthCheckResponse
    assert seen == [status.SERVING, status.NOT_SERVING, status.SERVING]
    await eventually(world, "/readyz", 200)
    assert world.gateway.envoy.pid not in (0, first)


async def test_an_envoy_that_cannot_be_started_now_is_started_later(
    bare_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine short of memory or descriptors for a moment does not end the gateway for good."""
    world = bare_world
    await storage_world(world)
    assert world.gateway is not None
    envoy, spawn, refusals = world.gateway.envoy, world.gateway.envoy._spawn, [1, 2]

    async def short_of_memory() -> None:
        if refusals:
            refusals.pop()
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        await spawn()

    monkeypatch.setattr(envoy, "_spawn", short_of_memory)
    first = envoy.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: envoy.pid not in (0, first))
    assert refusals == []


async def test_a_port_in_use_is_said_and_nothing_is_left(bare_world: World) -> None:
    """The error names the port and the setting."""
    world = bare_world
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"{port}.*LEPTON_GATEWAY_PORT"):
            await world.start_gateway(gateway_port=port)


async def test_an_envoy_that_cannot_start_says_why(bare_world: World) -> None:
    """The port is taken between the check and the start; the gateway can still be closed."""
    world = bare_world
    gateway = world.make_gateway()
    with socket.create_server(("127.0.0.1", gateway.port)):
        with pytest.raises(EnvoyFailed, match="Address already in use"):
            await gateway.start()
        await gateway.close()
    assert gateway.envoy.pid == 0


async def test_running_calls_end_before_the_gateway_does(bare_world: World) -> None:
    """And no new connection is taken meanwhile."""
    world = bare_world
    await storage_world(world, drain_grace_seconds=10)
    gateway = world.gateway
    assert gateway is not None
    async with world.http() as http:
        slow = asyncio.create_task(http.get("/v1/datasets/slow", headers=world.bearer()))
        await until(lambda: bool(world.seen.calls.get("storage-1")))
        closing = asyncio.create_task(gateway.close())
        async with asyncio.timeout(5):
            while True:
                try:
                    async with world.http() as newcomer:
                        await newcomer.get("/healthz")
                except httpx.TransportError:
                    break
                await asyncio.sleep(0.02)
        assert not slow.done()
        world.release.set()
        assert (await slow).status_code == 200
    await closing
    world.gateway = None


async def test_a_unary_call_has_a_deadline(bare_world: World) -> None:
    """A service that hangs costs its callers a minute (here less), not for ever."""
    world = bare_world
    request = await storage_world(world, unary_timeout_seconds=0.2)
    request.name = "datasets/slow"
    async with world.http() as http, world.channel() as channel:
        response = await http.get("/v1/datasets/slow", headers=world.bearer())
        assert (response.status_code, response.json()["reason"]) == (504, "DEADLINE_EXCEEDED")
        stub: Any = storage_pb2_grpc.StorageServiceStub(channel)
        metadata = tuple(world.bearer().items())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetDataset(request, metadata=metadata)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        # The caller's own deadline counts before ours.
        patient = asyncio.ensure_future(stub.GetDataset(request, metadata=metadata, timeout=10))
        await asyncio.wait({patient}, timeout=0.5)
        assert not patient.done()
        world.release.set()
        assert (await patient).name == "datasets/slow"


_CONTROL_PLANE = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.integration.gateway.world import World

async def main():
    world = World(Path(sys.argv[2]))
    await world.serve("auth", "auth-1")
    gateway = await world.start_gateway()
    print(gateway.envoy.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_envoy_dies_with_its_control_plane(tmp_path: Path) -> None:
    """Even if that is killed and can do nothing about it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CONTROL_PLANE, str(Path(__file__).parents[3]), str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    envoy = int(await process.stdout.readline())
    assert alive(envoy)
    process.kill()
    await process.wait()
    await until(lambda: not alive(envoy))


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


async def served_serial(world: World) -> int:
    """The serial number of the certificate that users are shown now."""
    context = ssl.create_default_context(cadata=world.authority.root_pem.decode())
    host, _, port = world.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number
    finally:
        writer.close()
