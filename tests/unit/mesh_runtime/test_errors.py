"""How failures reach who called: errors of the domain, bugs, refusals and full servers."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lepton_mesh.authorization import Rule
from lepton_mesh.caller import Role
from lepton_mesh.errors import (
    Internal,
    InvalidArgument,
    LeptonError,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from lepton_mesh.interceptors.status import public_message

if TYPE_CHECKING:
    from conftest import Mesh

ARITIES = ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"]
VIEWERS = Rule(min_role=Role.VIEWER)
PUBLIC = Rule(public=True)


class Garbling:
    """A channel whose messages are no protobuf."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        make = getattr(self._channel, name)
        return lambda path, serialize, parse: make(path, lambda message: b"\xff\xff", parse)


class ShelfEmpty(NotFound):
    reason = "TEST_SHELF_EMPTY"

    def __init__(self, shelf: str) -> None:
        super().__init__(f"shelf '{shelf}' is empty; fill it", shelf=shelf)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def details(error: grpc.aio.AioRpcError) -> list[Any]:
    status = status_pb2.Status.FromString(
        dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    )
    return list(status.details)


@pytest.mark.parametrize("arity", ARITIES)
async def test_a_domain_error_arrives_as_itself(mesh: Mesh, arity: str) -> None:
    """Kind, reason, message and metadata of an error survive the wire, in every arity."""

    async def behavior(text: str) -> str:
        raise ShelfEmpty(text)

    running = await mesh.serve(behavior, PUBLIC)
    with pytest.raises(ShelfEmpty) as caught:
        await mesh.stub(running).call(arity, "top")
    assert caught.value.message == "shelf 'top' is empty; fill it"
    assert caught.value.metadata == {"shelf": "top"}


@pytest.mark.parametrize("arity", ARITIES)
async def test_an_unexpected_error_stays_inside(
    mesh: Mesh, arity: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller sees a trace id; the log has the traceback under the same id."""

    async def behavior(text: str) -> str:
        raise RuntimeError("password is hunter2")

    running = await mesh.serve(behavior, PUBLIC)
    raw = type(mesh.stub(running))(mesh.raw(running))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw.call(arity, "x")
    info = error_details_pb2.ErrorInfo()
    details(caught.value)[0].Unpack(info)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert info.reason == "INTERNAL"
    assert caught.value.details() == f"internal error; trace id {info.metadata['trace_id']}"
    assert "hunter2" not in repr(caught.value)
    await running.server.drain(0)  # the record is written after the answer was sent
    records = [record for record in caplog.records if record.name == "lepton_mesh.calls"]
    assert [record.levelname for record in records] == ["ERROR"]
    assert records[0].exc_info is not None
    assert "hunter2" in str(records[0].exc_info[1])


async def test_a_full_disk_is_told(mesh: Mesh) -> None:
    """ "No space left" raised anywhere is no bug of ours: the caller hears which disk."""

    async def behavior(text: str) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/var/lib/lepton/x")

    running = await mesh.serve(behavior, PUBLIC)
    with pytest.raises(LeptonError, match="holds /var/lib/lepton/x; free some") as caught:
        await mesh.stub(running).call(ARITIES[0], "x")
    assert caught.value.reason == "DISK_FULL"


@pytest.mark.parametrize("arity", ARITIES)
async def test_a_malformed_message_is_the_callers_fault(
    mesh: Mesh, arity: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes through the chain: a reason for the caller, a plain record, no traceback."""

    async def behavior(text: str) -> str:
        return text

    running = await mesh.serve(behavior, PUBLIC)
    stub = type(mesh.stub(running))(Garbling(mesh.channel(running)))
    caplog.set_level(logging.INFO)
    with pytest.raises(InvalidArgument) as caught:
        await stub.call(arity, "x")
    assert caught.value.reason == "MESSAGE_MALFORMED"
    assert caught.value.metadata["method"].endswith(arity)
    await running.server.drain(0)  # the record is written after the answer was sent
    records = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert [(one.name, one.levelname, one.exc_info) for one in records] == [
        ("lepton_mesh.calls", "INFO", None)
    ]


async def test_who_may_not_call_is_told_so_before_the_message_is_read(mesh: Mesh) -> None:
    """Permission comes before everything that the request says."""

    async def behavior(text: str) -> str:
        return text

    running = await mesh.serve(behavior, VIEWERS)
    stub = type(mesh.stub(running))(Garbling(mesh.channel(running)))
    with pytest.raises(Unauthenticated):
        await stub.call("UnaryUnary", "x", metadata=bearer("not a token"))


@pytest.mark.parametrize("arity", ARITIES)
async def test_a_cancelled_error_of_the_servicers_own_is_answered(mesh: Mesh, arity: str) -> None:
    """What the servicer waits for was cancelled, not the call: its caller must not hang."""

    async def behavior(text: str) -> str:
        raise asyncio.CancelledError

    running = await mesh.serve(behavior, PUBLIC)
    with pytest.raises(Internal, match="trace id"):
        await mesh.stub(running).call(arity, "x", timeout=5)


@pytest.mark.parametrize("arity", ["UnaryUnary", "StreamStream"])
async def test_downstream_errors_pass_through_with_their_reason(mesh: Mesh, arity: str) -> None:
    """What the second service says reaches the first one's caller, unknown reasons included."""

    async def back(text: str) -> str:
        error = NotFound("no such thing; look elsewhere", thing=text)
        error.reason = "REASON_OF_ANOTHER_VERSION"
        raise error

    behind = await mesh.serve(back, VIEWERS)
    stub = mesh.stub(behind)

    async def front(text: str) -> str:
        return str(await stub.call("UnaryUnary", text))

    running = await mesh.serve(front, VIEWERS)
    with pytest.raises(NotFound) as caught:
        await mesh.stub(running).call(arity, "x", metadata=bearer(mesh.token()))
    assert caught.value.reason == "REASON_OF_ANOTHER_VERSION"
    assert caught.value.metadata == {"thing": "x"}
    assert caught.value.message == "no such thing; look elsewhere"


async def test_an_upload_that_is_refused_learns_why(mesh: Mesh) -> None:
    """A client in the middle of writing gets the server's status, not its own failed write."""
    running = await mesh.serve(_same, VIEWERS)
    stub = mesh.stub(running)

    async def upload() -> AsyncIterator[StringValue]:
        for _ in range(64):
            yield StringValue(value="x" * 65536)

    for _ in range(10):
        with pytest.raises(Unauthenticated) as caught:
            await stub.stream_unary(upload())
        assert caught.value.reason == "TOKEN_MISSING"


async def test_a_service_that_is_down_is_unavailable_by_name(mesh: Mesh) -> None:
    """gRPC's own failures become ours, without addresses or OpenSSL's words."""
    running = await mesh.serve(_same, PUBLIC)
    stub = mesh.stub(running)
    await running.server.drain(0)
    with pytest.raises(Unavailable, match="service 'storage' cannot be reached"):
        await stub.call("UnaryUnary", "x")


async def _same(text: str) -> str:
    return text


async def test_calls_beyond_the_limit_are_told_when_to_come_back(mesh: Mesh) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo; health still answers; the place is free again after."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def behavior(text: str) -> str:
        entered.set()
        await leave.wait()
        return text

    running = await mesh.serve(behavior, PUBLIC, limit=1)
    stub = mesh.stub(running)
    first = asyncio.create_task(stub.call("UnaryUnary", "x"))
    await entered.wait()
    raw = type(stub)(mesh.raw(running))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw.call("UnaryUnary", "x")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = error_details_pb2.RetryInfo()
    assert details(caught.value)[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() > 0
    with pytest.raises(ResourceExhausted, match="busy with 1 calls"):
        await stub.call("StreamStream", "x")
    health: Any = health_pb2_grpc.HealthStub(mesh.raw(running))
    await health.Check(health_pb2.HealthCheckRequest())
    leave.set()
    assert await first == ["x"]
    assert await stub.call("UnaryUnary", "y") == ["y"]


def test_a_list_of_faults_is_told_whole() -> None:
    """What takes one byte a character has more room than what takes nine."""
    assert public_message(InvalidArgument("x" * 2500)) == "x" * 2500
    assert len(public_message(InvalidArgument("€" * 2500))) < 500


async def test_a_long_message_still_fits_into_the_trailers(mesh: Mesh) -> None:
    """An error's text is cut rather than refused by gRPC."""

    async def behavior(text: str) -> str:
        raise Internal("ü" * 50_000, blob="x" * 50_000)

    running = await mesh.serve(behavior, PUBLIC)
    with pytest.raises(Internal) as caught:
        await mesh.stub(running).call("UnaryUnary", "x")
    assert caught.value.message.endswith("…")
