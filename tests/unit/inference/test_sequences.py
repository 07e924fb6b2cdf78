"""Sequences: turns in order, whose they are, and how long they are kept."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from lepton_inference.batch_queue import RequestExpired
from lepton_inference.batcher import QueueFull
from lepton_inference.parameters import SequenceId, SequenceStep
from lepton_inference.sequences import (
    Sequences,
    SequencesTooMany,
    SequenceUnknown,
    SequenceUser,
)

ZEROS = (b"\0",)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(limit: int = 8, clock: Clock | None = None, max_waiting: int = 100) -> Sequences:
    return Sequences(
        ZEROS, limit=limit, idle_seconds=10, max_waiting=max_waiting, now=clock or Clock()
    )


async def step(
    sequences: Sequences,
    id_: SequenceId = 1,
    owner: str = "ada",
    *,
    start: bool = False,
    end: bool = False,
    user: SequenceUser | None = None,
    fail: bool = False,
) -> int:
    """Counts one up; returns what the count was before."""
    async with sequences.turn(owner, SequenceStep(id_, start, end), user) as turn:
        before = turn.state[0][0]
        turn.state = (bytes((before + 1,)),)
        await asyncio.sleep(0)
        if fail:
            raise ConnectionError
        return before


async def test_state_goes_on_from_start_to_end() -> None:
    """It begins with zeros, and a sequence that ended is forgotten."""
    sequences = make()
    assert [
        await step(sequences, start=True),
        await step(sequences),
        await step(sequences, end=True),
    ] == [0, 1, 2]
    assert sequences.live == 0
    with pytest.raises(SequenceUnknown, match="sequence_start"):
        await step(sequences)
    sequences.close()


async def test_requests_of_a_sequence_take_turns() -> None:
    """In the order in which they came, while other sequences go on."""
    sequences = make()
    first = [step(sequences, start=n == 0, end=n == 9) for n in range(10)]
    other = [step(sequences, "b", start=n == 0) for n in range(5)]
    counts = await asyncio.gather(*first, *other)
    assert counts == [*range(10), *range(5)]
    assert sequences.live == 1
    sequences.close()


async def test_a_start_begins_anew() -> None:
    """Also one that waits behind the end."""
    sequences = make()
    await step(sequences, start=True)
    assert await step(sequences, start=True) == 0
    ended, anew, on = await asyncio.gather(
        step(sequences, end=True), step(sequences, start=True), step(sequences)
    )
    assert (ended, anew, on) == (1, 0, 1)
    sequences.close()


async def test_what_waits_behind_the_end_is_refused() -> None:
    """The sequence is over by its turn."""
    sequences = make()
    ended, late = await asyncio.gather(
        step(sequences, start=True, end=True), step(sequences), return_exceptions=True
    )
    assert ended == 0
    assert isinstance(late, SequenceUnknown)
    assert sequences.live == 0


async def test_a_failure_leaves_the_state_as_it_was() -> None:
    """Whether at the start, in the middle, at a new start or at the end."""
    sequences = make()
    with pytest.raises(ConnectionError):
        await step(sequences, start=True, fail=True)
    assert sequences.live == 0
    await step(sequences, start=True)
    for kind in ({}, {"start": True}, {"end": True}):
        with pytest.raises(ConnectionError):
            await step(sequences, fail=True, **kind)
    assert await step(sequences) == 1
    sequences.close()


async def test_a_cancelled_request_leaves_the_state_as_it_was() -> None:
    """While it runs, and while it waits for its turn; who comes after goes on."""
    sequences = make()
    await step(sequences, start=True)
    running, waiting, after = (asyncio.create_task(step(sequences)) for _ in range(3))
    await asyncio.sleep(0)
    waiting.cancel()
    running.cancel()
    assert await after == 1
    assert await step(sequences) == 2
    sequences.close()


async def test_an_id_is_its_owners() -> None:
    """Another's same id is another sequence, and 1 is not "1"."""
    sequences = make()
    await step(sequences, start=True)
    with pytest.raises(SequenceUnknown):
        await step(sequences, owner="eve")
    with pytest.raises(SequenceUnknown):
        await step(sequences, "1")
    assert await step(sequences, owner="eve", start=True) == 0
    assert await step(sequences) == 1
    sequences.close()


async def test_sequences_are_bounded() -> None:
    """One more than its owner may is refused until one ends, and told when the next may expire."""
    clock = Clock()
    sequences = make(limit=4, clock=clock)
    await step(sequences, 1, start=True)
    clock.now = 4
    await step(sequences, 2, start=True)
    with pytest.raises(SequencesTooMany) as caught:
        await step(sequences, 3, start=True)
    assert caught.value.wire.retryable
    assert caught.value.retry_after_seconds == pytest.approx(6)
    assert await step(sequences, 2, start=True) == 0
    await step(sequences, 2, end=True)
    assert await step(sequences, 3, start=True) == 0
    sequences.close()


async def begun(sequences: Sequences, owner: str) -> int:
    """Begins one after another until it is refused; how many the owner has then."""
    for number in range(1, 100):
        try:
            await step(sequences, number, owner, start=True)
        except SequencesTooMany:
            return held(sequences, owner)
    return 100


def held(sequences: Sequences, owner: str) -> int:
    return sum(sequences.holds((owner, each)) for each in range(1, 100))


async def test_nobody_keeps_others_out() -> None:
    """However many come one after the other, each gets its share, and so do those before it."""
    sequences = make(limit=12)
    assert await begun(sequences, "ada") == 6
    assert await begun(sequences, "eve") == 4
    assert await begun(sequences, "bob") == 3  # one more than the others left
    assert held(sequences, "ada") == 5
    for owner in ("dan", "kim"):
        assert await begun(sequences, owner) == 2
    assert sequences.live == 12
    assert {held(sequences, owner) for owner in ("ada", "eve", "bob", "dan", "kim")} == {2, 3}
    with pytest.raises(SequencesTooMany, match=r"you keep 2 .* share of 12 is 2\b"):
        await step(sequences, 9, "dan", start=True)
    sequences.close()


async def test_the_one_idle_for_longest_makes_room() -> None:
    """Of the owner with most: not one with a request under way, nor of who has a share or less."""
    sequences = make(limit=4)
    for number in (1, 2):
        await step(sequences, number, "ada", start=True)
    await step(sequences, 1, "eve", start=True)
    await step(sequences, 1, "bob", start=True)
    async with sequences.turn("ada", SequenceStep(1, False, False)):
        assert await step(sequences, 1, "dan", start=True) == 0
    assert not sequences.holds(("ada", 2))
    with pytest.raises(SequenceUnknown, match="made room"):
        await step(sequences, 2, "ada")
    assert await step(sequences, 1, "ada") == 1
    with pytest.raises(SequencesTooMany, match="4 sequences are kept"):
        await step(sequences, 1, "kim", start=True)  # each has one already
    sequences.close()


async def test_what_is_under_way_makes_no_room() -> None:
    """Where all that could be ended have requests, who begins is refused, until one is over."""
    sequences = make(limit=4)
    async with contextlib.AsyncExitStack() as stack:
        for number in (1, 2):
            turn = sequences.turn("ada", SequenceStep(number, True, False))
            await stack.enter_async_context(turn)
        for owner in ("eve", "bob"):
            await step(sequences, 1, owner, start=True)
        with pytest.raises(SequencesTooMany, match="4 sequences are kept"):
            await step(sequences, 1, "dan", start=True)
        assert held(sequences, "ada") == 2
    assert await step(sequences, 1, "dan", start=True) == 0
    assert held(sequences, "ada") == 1
    sequences.close()


async def test_an_owner_who_left_counts_no_more() -> None:
    """The share of those who stay grows again."""
    sequences = make(limit=6)
    for owner in ("ada", "eve"):
        await step(sequences, 1, owner, start=True)
    await step(sequences, 2, start=True)
    with pytest.raises(SequencesTooMany):
        await step(sequences, 3, start=True)
    await step(sequences, 1, "eve", end=True)
    assert await step(sequences, 3, start=True) == 0
    sequences.close()


async def test_one_sequence_is_anybodys() -> None:
    """Where no more may be kept, there is nothing to share."""
    sequences = make(limit=1)
    assert await step(sequences, start=True) == 0
    with pytest.raises(SequencesTooMany):
        await step(sequences, owner="eve", start=True)
    sequences.close()


async def test_idle_sequences_make_room() -> None:
    """The time counts from the last request; what waits for its turn is not idle."""
    clock = Clock()
    sequences = make(limit=4, clock=clock)
    await step(sequences, 1, start=True)
    await step(sequences, 2, start=True)
    clock.now = 9
    await step(sequences, 1)
    clock.now = 11
    assert sequences.expire() == pytest.approx(8)
    assert (sequences.holds(("ada", 1)), sequences.holds(("ada", 2))) == (True, False)
    async with sequences.turn("ada", SequenceStep(1, False, False)):
        clock.now = 100
        sequences.expire()
        assert sequences.live == 1
    clock.now = 110
    with pytest.raises(SequenceUnknown):
        await step(sequences, 1)
    sequences.close()


async def test_the_loop_forgets_what_is_idle() -> None:
    """Without another request."""
    sequences = Sequences(ZEROS, limit=8, idle_seconds=0.001, max_waiting=8)
    await step(sequences, start=True)
    await asyncio.wait_for(sequences.ended(60), 5)
    assert sequences.live == 0
    sequences.close()


async def test_those_who_wait_are_bounded() -> None:
    """A sequence is no way round the bound of the queue."""
    sequences = make(max_waiting=2)
    two = [asyncio.create_task(step(sequences, start=True)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await step(sequences, 2, start=True)
    await asyncio.gather(*two)
    sequences.close()


async def test_who_waits_for_a_turn_has_a_deadline() -> None:
    """It is told, and whoever is behind it has the turn."""
    sequences = make()
    async with sequences.turn("ada", SequenceStep(1, True, False)) as turn:
        turn.state = (b"\x07",)
        with pytest.raises(RequestExpired):
            async with sequences.turn("ada", SequenceStep(1, False, False), None, 0.0):
                pytest.fail("it was another's turn")
        behind = asyncio.create_task(step(sequences))
        await asyncio.sleep(0)
    assert await behind == 7
    sequences.close()


async def test_a_stream_that_breaks_off_takes_its_sequences() -> None:
    """Those that it was the last to use; what another began again under that id stays."""
    sequences = make()
    stream = SequenceUser()
    for id_ in (1, 2, 3):
        await step(sequences, id_, start=True, user=stream)
    await step(sequences, 2)
    await step(sequences, 3, end=True, user=stream)
    await step(sequences, 3, start=True)
    stream.abandon()
    assert [sequences.holds(("ada", id_)) for id_ in (1, 2, 3)] == [False, True, True]
    sequences.close()


async def test_close_ends_all() -> None:
    """Who waits for the end is told, and what still runs leaves nothing behind."""
    sequences = make()
    running = asyncio.create_task(step(sequences, start=True))
    waiting = asyncio.create_task(step(sequences))
    ended = asyncio.create_task(sequences.ended(60))
    await asyncio.sleep(0)
    sequences.close()
    await ended
    assert await running == 0
    with pytest.raises(SequenceUnknown):
        await waiting
    assert sequences.live == 0
