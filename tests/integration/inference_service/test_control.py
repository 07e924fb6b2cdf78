"""The protocol's control half at the data port of a running service, whichever it is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton.oip.v2.open_inference_pb2_grpc import GRPCInferenceServiceStub
from lepton_mesh.caller import Role
from tests.inference_models import linear
from tests.integration.inference_service.test_life import infer, reason_of, request, score
from tests.integration.inference_service.world import World

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
planes = pytest.mark.parametrize("plane", ["envoy", "grpc"])


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.came = asyncio.Event()

    async def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        self.came.set()
        return trace_service_pb2.ExportTraceServiceResponse()


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason_of(caught.value)


@planes
async def test_a_model_of_the_registry_is_loaded_and_unloaded(world: World, plane: str) -> None:
    """With the rights and the token of who asks; unloaded it stays through a restart."""
    name = world.models.register("digits/versions/latest", linear(1.0))
    world.models.registered[name].class_names.extend(("cat", "dog", "emu"))
    process = world.run_inference(LEPTON_DATA_PLANE=plane)
    record = await world.instance()
    load = pb.RepositoryModelLoadRequest(model_name="digits")
    unload = pb.RepositoryModelUnloadRequest(model_name="digits")
    viewer, developer = world.bearer(role=Role.VIEWER), world.bearer()
    async with world.channel(record.ports["oip"]) as channel:
        port = GRPCInferenceServiceStub(channel)
        index = await port.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=viewer)
        assert [(one.name, one.reason) for one in index.models] == [("digits", "not loaded")]
        assert await refused(port.RepositoryModelLoad(load, metadata=viewer)) == "ROLE_TOO_LOW"
        assert await refused(port.RepositoryModelUnload(unload, metadata=viewer)) == "ROLE_TOO_LOW"
        await port.RepositoryModelLoad(load, metadata=developer, timeout=30)
        assert set(world.models.askers) == {"users/ada"}
        assert await score(channel, developer) == 4.0
        ranked = request()
        ranked.outputs.add(name="scores").parameters["classification"].int64_param = 2
        answer = await infer(channel, ranked, developer)
        assert answer.raw_output_contents[0].endswith(b"4.000000:1:dog")
        await port.RepositoryModelUnload(unload, metadata=developer, timeout=30)
        assert await refused(score(channel, developer)) == "ENDPOINT_UNLOADED"
    process.terminate()
    assert await asyncio.to_thread(process.wait, 20) == 0, world.log()
    await world.gone()
    world.run_inference(LEPTON_DATA_PLANE=plane)
    record = await world.instance()
    endpoint = await world.endpoint_in_state("endpoints/digits", "UNLOADED")
    assert endpoint.unloaded
    async with world.channel(record.ports["oip"]) as channel:
        assert await refused(score(channel, developer)) == "ENDPOINT_UNLOADED"
        await GRPCInferenceServiceStub(channel).RepositoryModelLoad(
            load, metadata=developer, timeout=30
        )
        assert await score(channel, developer) == 4.0


@planes
async def test_spans_and_logs_follow_the_settings(world: World, plane: str) -> None:
    """A request without a trace of its own is exported; the log changes its form."""
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    world.models.register("digits/versions/latest", linear(1.0))
    process = world.run_inference(
        LEPTON_DATA_PLANE=plane,
        LEPTON_OTLP_ENDPOINT=endpoint,
        LEPTON_TRACE_SAMPLE_RATIO="0",
    )
    record = await world.instance()
    developer = world.bearer()
    async with world.channel(record.ports["oip"]) as channel:
        port = GRPCInferenceServiceStub(channel)
        await port.RepositoryModelLoad(
            pb.RepositoryModelLoadRequest(model_name="digits"), metadata=developer, timeout=30
        )
        await score(channel, developer)
        trace = pb.TraceSettingRequest(model_name="digits")
        trace.settings["trace_level"].value.append("TIMESTAMPS")
        trace.settings["trace_rate"].value.append("2")
        answer = await port.TraceSetting(trace, metadata=developer)
        assert list(answer.settings["trace_rate"].value) == ["2"]
        for _ in range(4):
            await score(channel, developer)
        await score(channel, (*developer, ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")))
        form = pb.LogSettingsRequest()
        form.settings["log_format"].string_param = "console"
        admin = world.bearer(role=Role.ADMIN)
        denied = port.LogSettings(form, metadata=admin)
        assert await refused(denied) == "LOG_SETTINGS_DENIED"
        operator = world.bearer(role=Role.ADMIN, workspace="default")
        await port.LogSettings(form, metadata=operator)
        unload = pb.RepositoryModelUnloadRequest(model_name="digits")
        await port.RepositoryModelUnload(unload, metadata=developer)
    process.terminate()  # which sends the spans that wait
    assert await asyncio.to_thread(process.wait, 20) == 0, world.log()
    await asyncio.wait_for(collector.came.wait(), 10)
    await server.stop(None)
    infers = [span for span in collector.spans if span.name == "infer"]
    assert len(infers) == 2
    (called,) = (span for span in collector.spans if span.name.endswith("/ModelInfer"))
    assert called.trace_id.hex() == TRACE
    assert "COMPUTE_START" in [event.name for event in infers[0].events]
    lines = [line for line in world.log().splitlines() if "endpoint" in line]
    (loaded,) = (line for line in lines if "endpoint ready" in line)
    assert json.loads(loaded)["event"] == "endpoint ready"
    (unloaded,) = (line for line in lines if "endpoint unloaded" in line)
    assert not unloaded.startswith("{")
