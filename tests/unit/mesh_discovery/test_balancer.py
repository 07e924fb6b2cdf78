"""The balanced channel over servers in this process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import Callable

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from lepton_mesh.balancer import RetryBudget
from lepton_mesh.balancer.limits import HedgeDelay

UU, US, SU, SS = "/e/UU", "/e/US", "/e/SU", "/e/SS"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop run until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def requests():
    for piece in (b"a", b"b", b"c"):
        yield piece


async def test_four_arities(start, balanced) -> None:
    """Every kind of method works as on gRPC's own channel."""
    await start("one")
    channel = balanced()
    call = channel.unary_unary(UU)(b"x", timeout=5)
    assert await call == b"one"
    assert await call.code() is grpc.StatusCode.OK
    assert (await call.trailing_metadata())["served-by"] == "one"
    assert call.done()
    assert not call.cancelled()
    assert [m async for m in channel.unary_stream(US)(b"3", timeout=5)] == [b"one"] * 3
    assert await channel.stream_unary(SU)(requests(), timeout=5) == b"abc"
    assert [m async for m in channel.stream_stream(SS)(requests(), timeout=5)] == [b"a", b"b", b"c"]
    written = channel.stream_stream(SS)(timeout=5)
    await written.write(b"x")
    assert await written.read() == b"x"
    await written.done_writing()
    assert await written.read() is grpc.aio.EOF
    assert await written.code() is grpc.StatusCode.OK
    assert [one.in_flight for one in channel.pool.endpoints] == [0]


async def test_calls_are_shared_out(start, balanced, until_ready) -> None:
    for name in ("a", "b", "c"):
        await start(name)
    channel = balanced()
    await until_ready(channel, 3)
    call = channel.unary_unary(UU)
    answers = Counter(await asyncio.gather(*(call(b"", timeout=10) for _ in range(90))))
    assert set(answers) == {b"a", b"b", b"c"}
    assert min(answers.values()) > 5


async def test_a_busy_instance_gets_fewer_calls(start, balanced, until_ready) -> None:
    """With two instances, one of which answers nothing, nearly all calls go to the other."""
    stuck, free = await start("stuck"), await start("free")
    channel = balanced()
    await until_ready(channel, 2)
    stuck.gate.clear()
    call = channel.unary_unary(UU)
    held = [call(b"", timeout=20) for _ in range(8)]
    await until(lambda: free.calls + stuck.calls == 8)
    before = stuck.calls
    for _ in range(50):
        assert await call(b"", timeout=5) == b"free"
    assert stuck.calls == before
    stuck.gate.set()
    await asyncio.gather(*held)


@pytest.mark.parametrize(
    ("service_known", "says"),
    [(False, "no instance of service 'echo' is registered"), (True, "accepts connections")],
)
async def test_no_endpoint(directory, balanced, service_known: bool, says: str) -> None:
    """The error names the service and the remedy, and carries ErrorInfo as servers' errors do."""
    if service_known:
        directory.add("gone", "127.0.0.1:1")
    channel = balanced(wait_seconds=0.05)
    for call in (channel.unary_unary(UU)(b""), channel.unary_stream(US)(b"1").read()):
        with pytest.raises(grpc.aio.AioRpcError, match=says) as caught:
            await call
        assert caught.value.code() is UNAVAILABLE
        (detail,) = [v for k, v in caught.value.trailing_metadata() if k.endswith("details-bin")]
        status = status_pb2.Status.FromString(detail)
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert (info.reason, info.metadata["service"]) == ("SERVICE_UNREACHABLE", "echo")


async def test_a_waiting_call_ends_when_the_channel_closes(balanced) -> None:
    channel = balanced()
    call = channel.unary_unary(UU)(b"", wait_for_ready=True)
    await asyncio.sleep(0)
    await channel.close()
    with pytest.raises(grpc.aio.AioRpcError, match="is closed"):
        await call


async def test_a_call_waits_for_the_first_instance(start, balanced) -> None:
    channel = balanced()
    call = channel.unary_unary(UU)(b"", timeout=10)
    await start("late")
    assert await call == b"late"


@pytest.mark.parametrize(
    ("idempotent", "code", "repeated"),
    [
        (True, UNAVAILABLE, True),
        (False, UNAVAILABLE, False),
        (True, grpc.StatusCode.INTERNAL, False),
        (True, grpc.StatusCode.NOT_FOUND, False),
    ],
)
async def test_what_is_repeated(
    start, balanced, until_ready, idempotent: bool, code: grpc.StatusCode, repeated: bool
) -> None:
    """Only idempotent methods, only when the instance is unavailable, and elsewhere."""
    bad = await start("bad")
    bad.fail = code
    channel = balanced(idempotent={UU, US} if idempotent else set())
    await until_ready(channel, 1)
    first = channel.unary_unary(UU)(b"", timeout=10)
    bad.gate.clear()
    await bad.reached.wait()
    good = await start("good")
    await until_ready(channel, 2)
    bad.gate.set()
    if repeated:
        assert await first == b"good"
        assert bad.calls == 1
    else:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await first
        assert caught.value.code() is code
        assert (bad.calls, good.calls) == (1, 0)


async def test_a_stream_begins_again_before_its_first_message(start, balanced, until_ready) -> None:
    bad = await start("bad")
    bad.fail = UNAVAILABLE
    bad.gate.clear()
    channel = balanced(idempotent={US})
    stream = channel.unary_stream(US)(b"2", timeout=10)
    await bad.reached.wait()
    await start("good")
    await until_ready(channel, 2)
    bad.gate.set()
    assert [message async for message in stream] == [b"good", b"good"]
    assert [one.in_flight for one in channel.pool.endpoints] == [0, 0]


async def test_the_budget_ends_repeating(start, balanced) -> None:
    """When everything fails, a few calls are repeated and then none."""
    bad = await start("bad")
    bad.fail = UNAVAILABLE
    channel = balanced(idempotent={UU}, budget=RetryBudget(capacity=2))
    for _ in range(4):
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(UU)(b"", timeout=10)
    assert bad.calls == 4 + 2


async def test_a_failing_instance_is_ejected(start, balanced, until_ready) -> None:
    """After three failures in a row the other instance gets every call."""
    bad, good = await start("bad"), await start("good")
    bad.fail = UNAVAILABLE
    channel = balanced(idempotent={UU})
    await until_ready(channel, 2)
    for _ in range(60):
        assert await channel.unary_unary(UU)(b"", timeout=10) == b"good"
    assert bad.calls == 3
    assert good.calls == 60


async def test_a_stream_that_works_forgives_what_failed(start, balanced, until_ready) -> None:
    """Failures count in a row only, of streams too."""
    flaky, _ = await start("flaky"), await start("other")
    channel = balanced()
    await until_ready(channel, 2)
    endpoint = next(one for one in channel.pool.endpoints if one.address == flaky.address)
    for _ in range(3):
        flaky.fail = UNAVAILABLE
        failed = flaky.calls
        while flaky.calls < failed + 2:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await channel.unary_stream("/e/US")(b"1", timeout=10).read()
        assert not endpoint.ejected
        flaky.fail = None
        before = flaky.calls
        while flaky.calls == before:
            await channel.unary_stream("/e/US")(b"1", timeout=10).read()


async def test_a_stream_survives_a_rotation(start, balanced, until_ready) -> None:
    """However long it takes: its connection closes only when it has ended."""
    await start("one")
    channel = balanced(drain_seconds=0.01)
    await until_ready(channel, 1)
    (old,) = channel.pool.endpoints
    call = channel.stream_stream("/e/SS")(timeout=10)
    await call.write(b"before")
    assert await call.read() == b"before"
    await channel.refresh()
    await until(lambda: channel.pool.endpoints != (old,))
    assert await channel.unary_unary(UU)(b"", timeout=10) == b"one"
    with contextlib.suppress(TimeoutError):  # more than an instance that left would have
        await asyncio.wait_for(asyncio.shield(old._watch), 0.1)
    await call.write(b"after")
    assert await call.read() == b"after"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    await until(old._watch.done)


async def test_the_only_instance_is_used_even_when_ejected(start, balanced) -> None:
    bad = await start("bad")
    bad.fail = UNAVAILABLE
    channel = balanced()
    for _ in range(5):
        with pytest.raises(grpc.aio.AioRpcError, match="bad fails"):
            await channel.unary_unary(UU)(b"", timeout=10)
    bad.fail = None
    assert await channel.unary_unary(UU)(b"", timeout=10) == b"bad"


async def test_a_slow_read_is_hedged(start, balanced, until_ready) -> None:
    """The second instance's answer is taken; the first one's call is cancelled and uncounted."""
    slow = await start("slow")
    slow.gate.clear()
    channel = balanced(hedged={UU})
    await until_ready(channel, 1)
    call = channel.unary_unary(UU)(b"", timeout=10)
    await slow.reached.wait()
    await start("fast")
    assert await call == b"fast"
    assert (await call.trailing_metadata())["served-by"] == "fast"
    await until(lambda: not any(one.in_flight for one in channel.pool.endpoints))


async def test_an_answer_of_the_application_is_not_hedged_away(start, balanced) -> None:
    one = await start("one")
    one.fail = grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError, match="one fails"):
        await balanced(hedged={UU}).unary_unary(UU)(b"", timeout=10)
    assert one.calls == 1


@pytest.mark.parametrize("how", ["cancel call", "cancel task", "deadline"])
async def test_cancelled_calls_are_not_counted(start, balanced, how: str) -> None:
    one = await start("one")
    one.gate.clear()
    channel = balanced(hedged={UU})
    call = channel.unary_unary(UU)(b"", timeout=0.2 if how == "deadline" else 10)
    await one.reached.wait()
    if how == "cancel call":
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await call.code() is grpc.StatusCode.CANCELLED
    elif how == "cancel task":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.01)
    else:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: channel.pool.endpoints[0].in_flight == 0)


@pytest.mark.parametrize("how", ["read to the end", "cancel", "drop"])
async def test_streams_are_counted_until_they_end(start, balanced, how: str) -> None:
    await start("one")
    channel = balanced()
    stream = channel.unary_stream(US)(b"100000" if how != "read to the end" else b"3", timeout=20)
    assert await stream.read() == b"one"
    (endpoint,) = channel.pool.endpoints
    assert endpoint.in_flight == 1
    if how == "cancel":
        stream.cancel()
    elif how == "drop":
        del stream
        gc.collect()
    else:
        while await stream.read() is not grpc.aio.EOF:
            pass
    await until(lambda: endpoint.in_flight == 0)


async def test_an_instance_that_left_finishes_its_calls(
    start, balanced, directory, until_ready
) -> None:
    """In-flight calls end; new ones go elsewhere at once."""
    leaving = await start("leaving")
    leaving.gate.clear()
    channel = balanced()
    call = channel.unary_unary(UU)(b"", timeout=10)
    await leaving.reached.wait()
    await start("staying")
    await until_ready(channel, 2)
    directory.remove("leaving")
    assert await channel.unary_unary(UU)(b"", timeout=10) == b"staying"
    leaving.gate.set()
    assert await call == b"leaving"


async def test_calls_beyond_the_grace_are_repeated_elsewhere(
    start, balanced, directory, until_ready
) -> None:
    """A call that never ends on an instance that left is cut off; an idempotent one goes on."""
    stuck = await start("stuck")
    stuck.gate.clear()
    channel = balanced(idempotent={UU}, drain_seconds=0.05)
    repeated = channel.unary_unary(UU)(b"", timeout=10)
    await stuck.reached.wait()
    await start("staying")
    await until_ready(channel, 2)
    directory.remove("stuck")
    assert await repeated == b"staying"


async def test_other_channels_close_while_balanced_calls_run(start, balanced) -> None:
    """grpc.aio's close() inspects every task of the process; ours must not confuse it."""
    one = await start("one")
    one.gate.clear()
    channel = balanced()
    call = channel.unary_unary(UU)(b"", timeout=10)
    stream = channel.unary_stream(US)(b"1", timeout=10)
    reading = asyncio.create_task(stream.read())
    await one.reached.wait()
    other = grpc.aio.insecure_channel(one.address)
    await other.channel_ready()
    await other.close()
    one.gate.set()
    assert await call == b"one"
    assert await reading == b"one"


def test_budget() -> None:
    """Retries spend a token, ten successes earn one, never beyond the capacity."""
    budget = RetryBudget(capacity=2, refill=0.5)
    assert [budget.take(), budget.take(), budget.take()] == [True, True, False]
    budget.earn()
    assert not budget.take()
    budget.earn()
    assert budget.take()
    for _ in range(100):
        budget.earn()
    assert budget.tokens == 2


def test_hedge_delay() -> None:
    """The delay follows the 95th percentile, within its bounds."""
    delay = HedgeDelay(initial=0.1, least=0.02, most=1.0)
    assert delay.seconds == 0.1
    for latency in [0.03] * 38 + [0.4, 0.5]:
        delay.observe(latency)
    assert delay.seconds == 0.03
    for _ in range(160):
        delay.observe(0.001)
    assert delay.seconds == 0.02
    for _ in range(160):
        delay.observe(9.0)
    assert delay.seconds == 1.0
