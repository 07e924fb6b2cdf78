"""The service as a process: endpoints over a real mesh, restarts, swaps, refusals, drain."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from cryptography import x509
from google.rpc import error_details_pb2, status_pb2

from lepton.api.inference.v1 import inference_pb2 as api
from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_mesh.caller import Role
from lepton_mesh.disk import BALLAST_BYTES, BALLAST_FILE
from lepton_mesh.errors import AlreadyExists, InvalidArgument, LeptonError, NotFound
from lepton_mesh.pki import CertificateAuthority, serial_hex
from tests.inference_models import linear
from tests.integration.inference_service.world import World

pytestmark = pytest.mark.integration

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def request(model: str = "digits") -> pb.ModelInferRequest:
    return pb.ModelInferRequest(
        model_name=model,
        inputs=[pb.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=[1, 4])],
        raw_input_contents=[np.ones((1, 4), np.float32).tobytes()],
    )


def infer(channel: grpc.aio.Channel, message: pb.ModelInferRequest, metadata: Any) -> Any:
    call = channel.unary_unary(
        METHOD,
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    return call(message, metadata=metadata, timeout=20)


async def score(channel: grpc.aio.Channel, metadata: Any) -> float:
    answer = await infer(channel, request(), metadata)
    return float(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])


async def create(world: World, version: str, endpoint_id: str = "digits") -> api.Endpoint:
    wanted = api.Endpoint(targets=[api.Target(model_version=version)])
    message = api.CreateEndpointRequest(endpoint_id=endpoint_id, endpoint=wanted)
    endpoint: api.Endpoint = await world.management().CreateEndpoint(
        message, metadata=world.bearer(), timeout=20
    )
    return endpoint


def reason_of(error: grpc.aio.AioRpcError) -> str:
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(details).details[0].Unpack(info)
    assert info.domain == "lepton.dev"
    return info.reason


async def test_an_endpoint_lives_and_survives_restarts(world: World) -> None:
    """Create, infer, swap under load, restart with and without storage, delete, drain."""
    first = world.models.register("digits/versions/1", linear(1.0))
    second = world.models.register("digits/versions/2", linear(2.0))
    process = world.run_inference()
    record = await world.instance()
    assert record.address != record.ports["oip"]
    created = await create(world, first)
    assert (created.name, created.state) == ("endpoints/digits", api.Endpoint.DEPLOYING)
    ready = await world.endpoint_in_state("endpoints/digits", "READY")
    assert ready.execution_provider == "CPUExecutionProvider"
    assert ready.targets[0].resolved_version == first
    assert world.models.readers == ["services/inference in lab"]

    bearer = world.bearer()
    async with world.channel(record.ports["oip"]) as channel:
        assert await score(channel, bearer) == 4.0

        # A new version under load: every request is answered, by the one or the other.
        stop, swapped, seen = asyncio.Event(), asyncio.Event(), set()

        async def load() -> None:
            while not stop.is_set():
                seen.add(await score(channel, bearer))
                if 8.0 in seen:
                    swapped.set()

        workers = [asyncio.create_task(load()) for _ in range(8)]
        update = api.UpdateEndpointRequest(
            endpoint=api.Endpoint(
                name="endpoints/digits", targets=[api.Target(model_version=second)]
            )
        )
        update.update_mask.paths.append("targets")
        await world.management().UpdateEndpoint(update, metadata=bearer, timeout=20)
        await world.endpoint_in_state("endpoints/digits", "READY")
        await asyncio.wait_for(swapped.wait(), 10)
        stop.set()
        await asyncio.gather(*workers)
        assert seen == {4.0, 8.0}

    # Killed with its Envoy, it comes back with its endpoints, from its own disk.
    process.kill()
    process.wait()
    reads = world.models.reads
    process = world.run_inference()
    record = await world.instance(but=record.instance)
    await world.endpoint_in_state("endpoints/digits", "READY")
    assert world.models.reads == reads
    async with world.channel(record.ports["oip"]) as channel:
        assert await score(channel, bearer) == 8.0
        name = api.DeleteEndpointRequest(name="endpoints/digits")
        # The killed instance is on record until its lease ends, so ask the new one itself.
        await world.management().DeleteEndpoint(name, metadata=bearer, timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await score(channel, bearer)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert reason_of(caught.value) == "ENDPOINT_NOT_FOUND"
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 20) == 0, world.log()
    assert "Traceback" not in world.log()


async def test_who_may_not_is_refused(world: World) -> None:
    """No certificate, a foreign one, no token, one expired or of another workspace."""
    world.models.register("digits/versions/1", linear(1.0))
    world.run_inference()
    record = await world.instance()
    await create(world, "models/digits/versions/1")
    await world.endpoint_in_state("endpoints/digits", "READY")
    address = record.ports["oip"]
    rows = [
        ((), grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
        (world.bearer(life=-60), grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"),
        ((("authorization", "Bearer x.y.z"),), grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"),
        ((("authorization", "Basic eDp5"),), grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"),
        (world.bearer(workspace="other"), grpc.StatusCode.NOT_FOUND, "ENDPOINT_NOT_FOUND"),
    ]
    async with world.channel(address) as channel:
        for metadata, code, reason in rows:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await infer(channel, request(), metadata)
            assert (caught.value.code(), reason_of(caught.value)) == (code, reason)
        # A header that claims to be a peer's certificate is not believed, and does no harm.
        forged = (*world.bearer(), ("x-forwarded-client-cert", "URI=spiffe://evil/svc/gateway"))
        assert await score(channel, forged) == 4.0
    foreign = CertificateAuthority.create_root("lepton.local").create_intermediate()
    async with world.channel(address, world.identity("gateway", foreign)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(channel, request(), world.bearer())
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    root = (world.identity("gateway") / "ca.pem").read_bytes()
    bare = grpc.aio.secure_channel(
        address,
        grpc.ssl_channel_credentials(root),
        options=[("grpc.ssl_target_name_override", "inference.lepton.internal")],
    )
    async with bare as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(channel, request(), world.bearer())
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("plane", ["envoy", "grpc"])
async def test_a_revoked_certificate_is_refused(world: World, plane: str) -> None:
    """On either data port, and whatever serial the client claims to have."""
    world.models.register("digits/versions/1", linear(1.0))
    stolen = world.identity("training")
    pem = await asyncio.to_thread((stolen / "cert.pem").read_bytes)
    world.revoked.append(serial_hex(x509.load_pem_x509_certificate(pem)))
    world.run_inference(LEPTON_DATA_PLANE=plane)
    record = await world.instance()
    await create(world, "models/digits/versions/1")
    await world.endpoint_in_state("endpoints/digits", "READY")
    claimed = (*world.bearer(), ("x-lepton-peer-serial", "77"))
    async with world.channel(record.ports["oip"], stolen) as channel:
        for metadata in (world.bearer(), claimed):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await infer(channel, request(), metadata)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
            assert reason_of(caught.value) == "PEER_CERTIFICATE_REVOKED"
    async with world.channel(record.ports["oip"]) as channel:
        forged = (*world.bearer(), ("x-lepton-peer-serial", world.revoked[0]))
        assert await score(channel, forged) == 4.0


async def test_what_cannot_be_served_is_said(world: World) -> None:
    """Wrong digest, no ONNX, unknown version, bad names: FAILED or refused, with the reason."""
    world.models.register("lying/versions/1", linear(1.0), sha256="0" * 64)
    world.models.register("text/versions/1", b"this is not a model")
    world.models.register("good/versions/1", linear(1.0))
    world.run_inference()
    await world.instance()
    for endpoint_id, reason in (("lying", "MODEL_DIGEST_MISMATCH"), ("text", "MODEL_INVALID")):
        await create(world, f"models/{endpoint_id}/versions/1", endpoint_id)
        with pytest.raises(AssertionError):
            await world.endpoint_in_state(f"endpoints/{endpoint_id}", "READY")
        endpoint = await world.endpoint_in_state(f"endpoints/{endpoint_id}", "FAILED")
        assert endpoint.failure_reason == reason
    await create(world, "models/good/versions/1", "good")
    await world.endpoint_in_state("endpoints/good", "READY")
    cached = sorted(path.parent.name for path in (world.root / "inference").glob("models/*/*"))
    assert len(cached) == 2  # the text and the good one; nothing of the lie is kept

    stub = world.management()
    rows: list[tuple[Any, Any, type[LeptonError]]] = [
        (stub.CreateEndpoint, api.CreateEndpointRequest(endpoint_id="Bad Id"), InvalidArgument),
        (stub.CreateEndpoint, api.CreateEndpointRequest(endpoint_id="empty"), InvalidArgument),
        (
            stub.CreateEndpoint,
            api.CreateEndpointRequest(
                endpoint_id="x",
                endpoint=api.Endpoint(targets=[api.Target(model_version="models/no/versions/1")]),
            ),
            NotFound,
        ),
        (
            stub.CreateEndpoint,
            api.CreateEndpointRequest(
                endpoint_id="good",
                endpoint=api.Endpoint(targets=[api.Target(model_version="models/good/versions/1")]),
            ),
            AlreadyExists,
        ),
        (stub.GetEndpoint, api.GetEndpointRequest(name="endpoints/none"), NotFound),
        (stub.GetEndpoint, api.GetEndpointRequest(name="models/x"), InvalidArgument),
        (stub.DeleteEndpoint, api.DeleteEndpointRequest(name="endpoints/none"), NotFound),
    ]
    for method, message, expected in rows:
        with pytest.raises(expected):
            await method(message, metadata=world.bearer(), timeout=20)
    with pytest.raises(LeptonError) as caught:
        await stub.DeleteEndpoint(
            api.DeleteEndpointRequest(name="endpoints/good"),
            metadata=world.bearer(role=Role.VIEWER),
            timeout=20,
        )
    assert caught.value.reason == "ROLE_TOO_LOW"
    listed = await stub.ListEndpoints(
        api.ListEndpointsRequest(page_size=2), metadata=world.bearer(), timeout=20
    )
    assert [endpoint.name for endpoint in listed.endpoints] == ["endpoints/good", "endpoints/lying"]
    assert listed.next_page_token


async def test_a_new_certificate_is_taken_without_a_restart(world: World) -> None:
    """What replaces the identity's files is what the data port presents, within seconds."""
    world.run_inference()
    address = (await world.instance()).ports["oip"]
    before = await asyncio.to_thread(world.certificate_of, address)
    world.renew("inference")
    async with asyncio.timeout(20):
        # Envoy tells nobody that it took new files, so it is asked until it has.
        while await asyncio.to_thread(world.certificate_of, address) == before:
            await asyncio.sleep(0.05)


async def test_room_is_kept_for_the_day_the_disk_is_full(world: World) -> None:
    """As of every service, though this one is Envoy's."""
    world.run_inference()
    await world.instance()
    assert (world.root / "inference" / BALLAST_FILE).stat().st_size == BALLAST_BYTES


async def test_envoy_dies_with_its_parent(world: World) -> None:
    """kill -9 of the service leaves no Envoy behind."""
    process = world.run_inference()
    await world.instance()
    file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    (child,) = (await asyncio.to_thread(file.read_text)).split()
    watched = os.pidfd_open(int(child))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(watched, ended.set)
    process.kill()
    await asyncio.wait_for(ended.wait(), 10)
    asyncio.get_running_loop().remove_reader(watched)
    os.close(watched)


async def test_the_fallback_serves_without_envoy(world: World) -> None:
    """The same endpoint, the same gate, over grpc.aio."""
    world.models.register("digits/versions/1", linear(1.0))
    process = world.run_inference(LEPTON_DATA_PLANE="grpc")
    record = await world.instance()
    await create(world, "models/digits/versions/1")
    await world.endpoint_in_state("endpoints/digits", "READY")
    async with world.channel(record.ports["oip"]) as channel:
        assert await score(channel, world.bearer()) == 4.0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(channel, request(), ())
        assert reason_of(caught.value) == "TOKEN_MISSING"
    async with httpx.AsyncClient() as client:
        metrics = (await client.get(f"http://{record.ports['metrics']}/metrics")).text
    sample = 'lepton_inference_requests_total{endpoint="digits",result="OK",version="1"'
    assert sample in metrics
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 20) == 0, world.log()


@pytest.mark.parametrize(
    ("name", "value"), [("LEPTON_DATA_PLAIN", "envoy"), ("LEPTON_IDENTITY_DIR", "/nonexistent")]
)
async def test_a_setting_that_is_wrong_stops_the_start(
    bare_world: World, name: str, value: str
) -> None:
    """Before anything is called."""
    await _refuses_to_start(bare_world, name, value)


async def test_a_setting_that_only_a_part_can_check_stops_the_start(world: World) -> None:
    """Once the service is a member of the mesh, inside of its Envoy."""
    await _refuses_to_start(world, "LEPTON_DATABASE_URL", "mysql://x/y")


async def _refuses_to_start(world: World, name: str, value: str) -> None:
    """One line that names the setting, no traceback, no process left."""
    process = world.run_inference(LEPTON_LOG_LEVEL="error", **{name: value})
    assert await asyncio.to_thread(process.wait, 30) == 2, world.log()
    assert name in world.log()
    assert "Traceback" not in world.log()
