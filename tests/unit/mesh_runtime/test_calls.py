"""What surrounds a call: deadlines, traces, drain, health, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lepton_mesh.authorization import Rule
from lepton_mesh.caller import Role, acting_as_service, current_caller
from lepton_mesh.errors import DeadlineExceeded, LeptonError, NotFound
from lepton_mesh.interceptors.deadline import remaining
from lepton_mesh.telemetry import current_trace_id

if TYPE_CHECKING:
    from conftest import Mesh

ARITIES = ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"]
VIEWERS = Rule(min_role=Role.VIEWER)
PUBLIC = Rule(public=True)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def _same(text: str) -> str:
    return text


async def test_deadline_crosses_two_hops(mesh: Mesh) -> None:
    """The second service sees what is left of the first caller's deadline."""
    seen: list[float | None] = []

    async def back(text: str) -> str:
        seen.append(remaining())
        return text

    behind = await mesh.serve(back, VIEWERS)
    stub = mesh.stub(behind)

    async def front(text: str) -> str:
        seen.append(remaining())
        await stub.call("UnaryUnary", text)
        await stub.call("UnaryUnary", text, timeout=0.5)
        with acting_as_service("lab"), pytest.raises(LeptonError):
            await stub.call("UnaryUnary", text)  # refused by the rule, whatever the deadline
        return text

    running = await mesh.serve(front, VIEWERS)
    await mesh.stub(running).call("UnaryUnary", "x", metadata=bearer(mesh.token()), timeout=20)
    at_front, at_back, shorter = seen
    assert at_front is not None and at_back is not None and shorter is not None
    # gRPC rounds a timeout up when it writes it to the wire.
    assert 15 < at_back < at_front + 0.05 < 20.1
    assert shorter < 0.6


async def test_an_expired_deadline_ends_the_work_without_noise(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler is cancelled, the caller gets DEADLINE_EXCEEDED, nobody logs an error."""
    ended = asyncio.Event()

    async def behavior(text: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return text

    running = await mesh.serve(behavior, PUBLIC)
    for arity in ARITIES:
        ended.clear()
        with pytest.raises(DeadlineExceeded):
            await mesh.stub(running).call(arity, "x", timeout=0.2)
        await asyncio.wait_for(ended.wait(), 5)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_client_that_leaves_ends_the_stream(mesh: Mesh) -> None:
    """Leaving `async for` early cancels the call and closes the servicer's generator."""
    ended = asyncio.Event()

    async def behavior(text: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return text

    running = await mesh.serve(behavior, PUBLIC)
    call = mesh.stub(running).unary_stream(StringValue(value="x"))
    async with contextlib.aclosing(aiter(call)) as responses:
        async for response in responses:
            assert response.value == "first"
            break
    await asyncio.wait_for(ended.wait(), 5)


async def test_trace_crosses_two_hops(mesh: Mesh) -> None:
    """Both services work under the trace id that the first caller sent."""
    seen: list[str] = []

    async def back(text: str) -> str:
        seen.append(current_trace_id())
        return text

    behind = await mesh.serve(back, VIEWERS)
    stub = mesh.stub(behind)

    async def front(text: str) -> str:
        seen.append(current_trace_id())
        return str(await stub.call("UnaryUnary", text))

    running = await mesh.serve(front, VIEWERS)
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    for traceparent, expected in (
        (f"00-{trace_id}-00f067aa0ba902b7-01", trace_id),
        ("00-garbage", None),
    ):
        seen.clear()
        sent = (*bearer(mesh.token()), ("traceparent", traceparent))
        await mesh.stub(running).call("UnaryUnary", "x", metadata=sent)
        assert len(seen) == 2
        assert seen[0] == seen[1] != ""
        assert expected is None or seen[0] == expected


async def test_the_users_token_travels_and_own_work_does_not_carry_it(mesh: Mesh) -> None:
    """A call made for a user is the user's; one under acting_as_service is the service's."""
    seen: list[tuple[str, str, str]] = []

    async def back(text: str) -> str:
        caller = current_caller()
        seen.append((caller.kind, caller.subject, caller.workspace))
        return text

    behind = await mesh.serve(back, Rule(min_role=Role.VIEWER, services=frozenset({"training"})))
    stub = mesh.stub(behind, mesh.identity("training"))

    async def front(text: str) -> str:
        await stub.call("UnaryUnary", text)
        with acting_as_service("other"):
            await stub.call("UnaryUnary", text)
        return text

    running = await mesh.serve(front, VIEWERS, name="storage")
    await mesh.stub(running).call("UnaryUnary", "x", metadata=bearer(mesh.token()))
    assert seen == [("user", "users/ada", "lab"), ("service", "services/training", "other")]


async def test_drain_fails_no_running_call(mesh: Mesh) -> None:
    """Calls and watches that run when the drain begins end well."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def behavior(text: str) -> str:
        entered.set()
        await leave.wait()
        return text

    running = await mesh.serve(behavior, PUBLIC)
    stub = mesh.stub(running)
    health: Any = health_pb2_grpc.HealthStub(mesh.raw(running))
    watch = health.Watch(health_pb2.HealthCheckRequest(service="lepton.test.v1.EchoService"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    calls = [asyncio.create_task(stub.call(arity, "x")) for arity in ARITIES]
    await entered.wait()
    drained = asyncio.create_task(running.server.drain(10))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await watch.read() is grpc.aio.EOF
    leave.set()
    assert [answer[-1] for answer in await asyncio.gather(*calls)] == ["x"] * 4
    await asyncio.wait_for(drained, 5)


async def test_health_and_reflection_know_the_services(mesh: Mesh) -> None:
    """Any peer of the mesh may ask; an unknown service is NOT_FOUND with a reason."""
    running = await mesh.serve(_same, VIEWERS)
    channel = mesh.raw(running)
    health: Any = health_pb2_grpc.HealthStub(mesh.channel(running))
    with pytest.raises(NotFound) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="lepton.none"))
    assert caught.value.reason == "HEALTH_SERVICE_UNKNOWN"

    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def ask() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    answers = [answer async for answer in reflection.ServerReflectionInfo(ask())]
    names = {service.name for service in answers[0].list_services_response.service}
    assert "lepton.test.v1.EchoService" in names


async def test_a_port_open_to_anyone_has_only_its_service(mesh: Mesh) -> None:
    """No health to watch, no reflection, and no message that fills the memory."""
    running = await mesh.serve(_same, Rule(public=True), mutual=False)
    channel = mesh.raw(running)
    stub = type(mesh.stub(running))(channel)
    assert await stub.call("UnaryUnary", "x" * 60_000) == ["x" * 60_000]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.call("UnaryUnary", "x" * 70_000)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    health: Any = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reflection.ServerReflectionInfo(iter(asked), timeout=5).read()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metrics_count_by_method_and_code(mesh: Mesh) -> None:
    """Each call is observed once with its final status."""

    async def behavior(text: str) -> str:
        if text == "bad":
            raise NotFound("it is not here")
        return text

    running = await mesh.serve(behavior, PUBLIC)
    stub = mesh.stub(running)
    await stub.call("UnaryUnary", "good")
    with pytest.raises(NotFound):
        await stub.call("UnaryUnary", "bad")

    await running.server.drain(0)  # calls are counted after their answers were sent

    def count(code: str) -> float | None:
        return running.telemetry.registry.get_sample_value(
            "lepton_server_call_seconds_count",
            {"method": "/lepton.test.v1.EchoService/UnaryUnary", "code": code},
        )

    assert (count("OK"), count("NOT_FOUND"), count("INTERNAL")) == (1, 1, None)
