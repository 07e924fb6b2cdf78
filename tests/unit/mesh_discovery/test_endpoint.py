"""What an instance costs, and when it is left alone: by a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from lepton_mesh.balancer import endpoint as module
from lepton_mesh.balancer.endpoint import (
    EJECTION_SECONDS,
    EWMA_SECONDS,
    FAILURES_TO_EJECT,
    MAX_EJECTION_SECONDS,
    Endpoint,
)
from lepton_mesh.balancer.pool import EndpointPool
from lepton_mesh.discovery import Instance

Code = grpc.StatusCode
UU = "/e/UU"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.random, "uniform", lambda low, high: (low + high) / 2)


@pytest.fixture
async def make(clock: Clock) -> AsyncIterator[Callable[[], Endpoint]]:
    """Makes endpoints that connect to nothing."""
    made: list[Endpoint] = []

    def endpoint() -> Endpoint:
        one = Endpoint("127.0.0.1:1", grpc.aio.insecure_channel, lambda: None, clock)
        made.append(one)
        return one

    yield endpoint
    for one in made:
        await one.close()


async def test_latency_weighs_as_much_as_load(make, clock: Clock) -> None:
    """A quick instance with three calls is better than a slow one with none."""
    quick, slow = make(), make()
    quick.answered(0.01)
    slow.answered(0.1)
    for _ in range(3):
        quick.begin()
    assert quick.cost == pytest.approx(4 * 0.01)
    assert slow.cost == pytest.approx(0.1)
    for _ in range(7):
        quick.begin()
    assert quick.cost > slow.cost


async def test_a_slow_answer_is_forgotten_in_time(make, clock: Clock) -> None:
    """A rise counts at once and fades, so that an instance that was slow is tried again."""
    one = make()
    one.answered(0.01)
    one.answered(1.0)
    assert one.cost == pytest.approx(1.0)
    clock.now += EWMA_SECONDS
    assert one.cost == pytest.approx(0.368, abs=0.001)


async def test_the_pool_prefers_the_quicker_of_two(make, clock: Clock) -> None:
    """With equal load it is latency that decides."""

    class Two:
        def instances(self, service: str) -> tuple[Instance, ...]:
            return tuple(Instance(service, f"{n}", f"127.0.0.1:{n}") for n in (1, 2))

        def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
            return lambda: None

    pool = EndpointPool(Two(), "echo", grpc.aio.insecure_channel, 1.0)
    quick, slow = pool.endpoints
    quick.answered(0.001)
    slow.answered(0.5)
    for one in (quick, slow):
        one.connected = True
    assert {pool.pick() for _ in range(50)} == {quick}
    await pool.close()


@pytest.mark.parametrize(
    "code",
    [
        Code.UNAVAILABLE,
        Code.RESOURCE_EXHAUSTED,
        Code.INTERNAL,
        Code.UNKNOWN,
        Code.DATA_LOSS,
        Code.DEADLINE_EXCEEDED,
    ],
)
async def test_failing_fast_earns_no_calls(make, clock: Clock, code: Code) -> None:
    """It gets no cheaper by failing, and is ejected by the third in a row."""
    one = make()
    one.answered(0.1)
    before = one.cost
    for _ in range(FAILURES_TO_EJECT):
        assert not one.ejected
        one.refused(code, 0.0001)
    assert one.cost == before
    assert one.ejected


@pytest.mark.parametrize("code", [Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION])
async def test_an_answer_of_the_application_is_no_failure(make, clock: Clock, code: Code) -> None:
    one = make()
    for _ in range(2 * FAILURES_TO_EJECT):
        one.refused(code, 0.01)
    assert not one.ejected
    assert one.cost == pytest.approx(0.01)


async def test_an_ejection_ends_and_each_next_one_lasts_twice_as_long(make, clock: Clock) -> None:
    """One failure is enough when it is given calls again; a success forgives everything."""
    one = make()
    for _ in range(FAILURES_TO_EJECT - 1):
        one.failed()
    seconds = EJECTION_SECONDS
    for _ in range(8):
        assert not one.ejected
        one.failed()
        clock.now += seconds - 0.001
        assert one.ejected
        clock.now += 0.002
        seconds = min(2 * seconds, MAX_EJECTION_SECONDS)
    assert not one.ejected
    one.answered(0.01)
    for _ in range(FAILURES_TO_EJECT):
        assert not one.ejected
        one.failed()
    clock.now += EJECTION_SECONDS + 0.001
    assert not one.ejected


async def test_a_server_that_fails_fast_loses_its_calls(start, balanced, until_ready) -> None:
    """Over real channels: three failures, then the slower one that works has every call."""
    bad, good = await start("bad"), await start("good")
    bad.fail = Code.RESOURCE_EXHAUSTED
    channel = balanced()
    await until_ready(channel, 2)
    failed = 0
    for _ in range(60):
        try:
            await channel.unary_unary(UU)(b"", timeout=10)
        except grpc.aio.AioRpcError:
            failed += 1
    assert (failed, bad.calls) == (FAILURES_TO_EJECT, FAILURES_TO_EJECT)
    assert good.calls == 60 - FAILURES_TO_EJECT
