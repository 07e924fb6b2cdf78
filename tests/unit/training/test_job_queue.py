"""Which waiting job goes first, which may start, and what the others are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lepton_training.job import Attempt, Job, State, StoredCheckpoint
from lepton_training.job_queue import Amount, Machine, Place, in_order, placed

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
MACHINE = Machine(cores=4, memory_mib=1000, gpus=("0",))


def job(name: str, *, priority: str = "NORMAL", waited: float = 0.0, **values: Any) -> Job:
    """A waiting job ``workspace/id`` that came ``waited`` seconds ago."""
    workspace, job_id = name.split("/")
    resources = {
        "memory_mib": values.pop("memory_mib", 0),
        "gpus": values.pop("gpus", 0),
    }
    defaults: dict[str, Any] = {"cpus": 1}
    return Job(
        workspace=workspace,
        id=job_id,
        spec={"priority": priority, "resources": resources},
        creator="users/ada",
        create_time=NOW - timedelta(seconds=waited),
        **(defaults | values),
    )


def order(
    queued: Sequence[Job], running: Sequence[Job] = (), usage: Mapping[str, float] | None = None
) -> list[str]:
    """Names in order."""
    found = in_order(
        queued, running, usage or {}, machine=MACHINE, node="here", now=NOW, aging=HOUR
    )
    return [f"{one.workspace}/{one.id}" for one in found]


def places(queued: Sequence[Job], running: Sequence[Job] = ()) -> list[Place]:
    """As the node `here` sees them, in the order given."""
    return placed(queued, running, MACHINE, node="here", now=NOW)


def test_priority_before_age() -> None:
    """Within one priority who came first goes first."""
    waiting = [
        job("a/late", waited=10),
        job("a/low", priority="LOW", waited=60),
        job("a/high", priority="HIGH"),
        job("a/early", waited=20),
    ]
    assert order(waiting) == ["a/high", "a/early", "a/late", "a/low"]


def test_waiting_raises_the_priority_without_an_end() -> None:
    """A job of low priority is before one of high priority that came three hours later."""
    waiting = [job("a/high", priority="HIGH"), job("b/low", priority="LOW", waited=3 * 3600)]
    assert order(waiting) == ["b/low", "a/high"]
    waiting[1] = job("b/low", priority="LOW", waited=2 * 3600 - 1)
    assert order(waiting) == ["a/high", "b/low"]


def test_a_resumed_job_waits_anew() -> None:
    """What it waited before it was paused gives it no place."""
    resumed = job("a/old", waited=9 * 3600, queue_time=NOW)
    assert order([resumed, job("a/new", waited=1)]) == ["a/new", "a/old"]


def test_workspaces_take_turns() -> None:
    """Who runs least goes first; each place counts as running for the next."""
    waiting = [job(f"a/{n}", waited=100) for n in (1, 2, 3)] + [job(f"b/{n}") for n in (1, 2)]
    assert order(waiting) == ["a/1", "b/1", "a/2", "b/2", "a/3"]
    running = [job("a/r", cpus=2, state=State.RUNNING)]
    assert order(waiting, running) == ["b/1", "b/2", "a/1", "a/2", "a/3"]


def test_among_those_who_run_as_much_the_one_who_used_least_goes_first() -> None:
    """Usage decides between workspaces, and not between the jobs of one."""
    waiting = [job("a/1", waited=100), job("b/1")]
    assert order(waiting, usage={"a": 500.0, "b": 20.0}) == ["b/1", "a/1"]


@pytest.mark.parametrize(
    "why",
    [{"node": "there"}, {"cpus": 5}, {"not_before": NOW + HOUR}],
    ids=["another node", "too large", "back-off"],
)
def test_who_cannot_start_takes_no_turn(why: dict[str, Any]) -> None:
    """A job that waits for something else comes last, and its workspace's next is not held up."""
    waiting = [
        job("a/stuck", waited=90, priority="HIGH", **why),
        job("a/1", waited=80),
        job("a/2", waited=70),
        job("b/1", waited=60),
    ]
    assert order(waiting) == ["a/1", "b/1", "a/2", "a/stuck"]
    waiting[0] = job("a/stuck", waited=90, **why)
    assert order(waiting) == ["a/1", "b/1", "a/2", "a/stuck"]


def test_what_fits_starts() -> None:
    """Cores, memory and GPUs that run elsewhere are not taken here."""
    running = [
        job("a/r", cpus=2, memory_mib=600, state=State.RUNNING, node="here"),
        job("a/s", cpus=4, memory_mib=900, state=State.RUNNING, node="there"),
    ]
    waiting = [job("a/1"), job("a/2", memory_mib=400), job("a/3")]
    assert [one.starts for one in places(waiting, running)] == [True, True, False]
    assert [one.position for one in places(waiting, running)] == [1, 2, 3]
    assert places(waiting, running)[2].reason == "waits for 1 core, where 0 are free"


def test_of_one_that_is_there() -> None:
    one, two = Amount(1, 900, 1), Amount(2, 900, 2)
    assert one.lacks(two) == ["2 cores, where 1 is free", "2 GPUs, where 1 is free"]
    assert one.lacks(two, "exists", "exist")[0] == "2 cores, where 1 exists"


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ({"cpus": 3}, "waits for 3 cores, where 2 are free"),
        ({"cpus": 0}, "waits for 4 cores, where 2 are free"),
        ({"memory_mib": 500}, "waits for 500 MiB of memory, where 400 are free"),
        ({"gpus": 1}, "waits for 1 GPU, where 0 are free"),
        (
            {"cpus": 3, "memory_mib": 500},
            "waits for 3 cores, where 2 are free and 500 MiB of memory, where 400 are free",
        ),
        (
            {"cpus": 8},
            "waits for a larger machine than this one: it needs 8 cores, where 4 exist",
        ),
        ({"node": "there"}, "waits for node there, which has its checkpoint"),
        (
            {
                "not_before": NOW + timedelta(seconds=30),
                "attempts": 1,
                "history": (Attempt(1, NOW, NOW, "WORKER_KILLED"),),
            },
            "attempt 2 begins at 2026-01-02T03:04:35Z, in 30 s: "
            "the last one ended with WORKER_KILLED",
        ),
    ],
    ids=["cores", "all cores", "memory", "gpu", "both", "too large", "another node", "back-off"],
)
def test_what_waits_is_told_why(needs: dict[str, Any], reason: str) -> None:
    """With the figures of this moment."""
    running = [
        job("a/r", cpus=2, memory_mib=600, gpus=1, gpu_ids=("0",), state=State.RUNNING, node="here")
    ]
    (place,) = places([job("a/1", **needs)], running)
    assert (place.starts, place.reason) == (False, reason)


def test_what_is_free_is_kept_for_the_first() -> None:
    """A small job does not overtake a large one for ever; a wait for a GPU leaves the cores."""
    running = [
        job("a/r", cpus=2, gpus=1, gpu_ids=("0",), state=State.RUNNING, node="here"),
    ]
    large, small = places([job("a/large", cpus=4), job("a/small")], running)
    assert (large.starts, small.starts) == (False, False)
    assert small.reason == "waits behind a job before it, which what is free is kept for"
    waits, starts, third = places([job("a/gpu", gpus=1), job("a/one"), job("a/two")], running)
    assert (waits.starts, starts.starts, third.starts) == (False, True, False)


def test_who_cannot_start_here_keeps_nothing() -> None:
    """Neither a job of another node nor one that is to wait holds up those behind it."""
    waiting = [
        job("a/far", cpus=4, node="there"),
        job("a/large", cpus=5),
        job("a/later", cpus=4, not_before=NOW + HOUR),
        job("a/small", cpus=4),
    ]
    assert [one.starts for one in places(waiting)] == [False, False, False, True]


STORED = StoredCheckpoint("artifacts/7f", "a" * 64, NOW - HOUR)


@pytest.mark.parametrize(
    ("record", "moves_at"),
    [
        ({"waited": 61}, NOW - timedelta(seconds=1)),
        ({"waited": 59}, NOW + timedelta(seconds=1)),
        ({"waited": 3600, "queue_time": NOW}, NOW + timedelta(minutes=1)),
        (
            {"waited": 3600, "history": (Attempt(1, NOW - HOUR, NOW, "WORKER_KILLED"),)},
            NOW + timedelta(minutes=1),
        ),
        (
            {"waited": 3600, "not_before": NOW - timedelta(seconds=30)},
            NOW + timedelta(seconds=30),
        ),
    ],
    ids=["long", "not long", "resumed", "attempt ended", "back-off"],
)
def test_a_stored_checkpoint_lets_a_job_move(record: dict[str, Any], moves_at: datetime) -> None:
    """Once its own node did not take it for a minute, in which it could have started."""
    (place,) = places([job("a/1", node="there", checkpoint=STORED, **record)])
    assert place.starts is (moves_at <= NOW)
    if not place.starts:
        assert place.reason == (
            "waits for node there, which has its checkpoint; that is in storage too, and any node "
            f"takes the job from {moves_at:%Y-%m-%dT%H:%M:%SZ} on"
        )
    (place,) = places([job("a/1", node="there", **record)])
    assert place.reason == "waits for node there, which has its checkpoint"
    (place,) = places([job("a/1", node="here", checkpoint=STORED, waited=1)])
    assert place.starts
