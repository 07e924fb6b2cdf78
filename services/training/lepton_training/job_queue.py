"""The queue: which waiting job goes first, and which may start now.

Jobs are ordered by priority, which rises by one with each :attr:`Queue.aging` that a job has
waited: a job of low priority overtakes everything in the end. Among equals the workspace goes
first that runs least now, then the one that has used least lately; then the job that has
waited longest. Those that cannot start on this node now, however much is free, come after all
others.

A job that does not fit keeps what it needs from those behind it, so that smaller ones do not
overtake it for ever; one that waits for a GPU leaves the rest of the cores to others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from lepton_training.job import Job, State
from lepton_training.ports import JobRepository

MOVES_AFTER = timedelta(minutes=1)
"""How long a job whose checkpoint is in storage waits for the node that it ran on, where what
lies there may be newer."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What this node has for jobs."""

    cores: int
    memory_mib: int = 0
    """0 where it is not known: nothing is kept then."""
    gpus: tuple[str, ...] = ()
    """As CUDA_VISIBLE_DEVICES names them."""
    core_ids: tuple[int, ...] = ()
    """Processors, as many as ``cores``, that jobs are bound to; empty where they are not bound."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Of cores, memory and GPUs."""

    cpus: int
    memory_mib: int
    gpus: int

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            self.cpus - other.cpus, self.memory_mib - other.memory_mib, self.gpus - other.gpus
        )

    def lacks(
        self, needed: Amount, one_is: str = "is free", more_are: str = "are free"
    ) -> list[str]:
        """What of ``needed`` is not there, in words.

        Args:
            one_is: What is said of one that is there, such as "is free".
            more_are: The same of more, or of none.
        """
        found = []
        for word, one, wanted, there in (
            ("cores", "core", needed.cpus, self.cpus),
            ("MiB of memory", "MiB of memory", needed.memory_mib, self.memory_mib),
            ("GPUs", "GPU", needed.gpus, self.gpus),
        ):
            if wanted > max(0, there):
                name = one if wanted == 1 else word
                verb = one_is if there == 1 else more_are
                found.append(f"{wanted} {name}, where {max(0, there)} {verb}")
        return found


@dataclass(frozen=True, slots=True)
class Place:
    """A waiting job and its place."""

    job: Job
    position: int
    """From 1, over all workspaces."""
    starts: bool
    """Whether this node may start it now."""
    needs: Amount
    reason: str
    """What it waits for; empty when it starts."""


class Queue:
    """The waiting jobs of all nodes as this node sees them."""

    def __init__(
        self, repository: JobRepository, machine: Machine, node: str, aging: timedelta
    ) -> None:
        """
        Args:
            aging: Waiting so long raises a job's priority by one.
        """
        self._repository = repository
        self._machine = machine
        self._node = node
        self._aging = aging

    async def places(self, now: datetime) -> list[Place]:
        """Every waiting job, in order."""
        queued = await self._repository.queued()
        if not queued:
            return []
        running = await self._repository.running()
        usage = await self._repository.usage(now)
        ordered = in_order(
            queued,
            running,
            usage,
            machine=self._machine,
            node=self._node,
            now=now,
            aging=self._aging,
        )
        return placed(ordered, running, self._machine, node=self._node, now=now)


def in_order(
    queued: Iterable[Job],
    running: Iterable[Job],
    usage: Mapping[str, float],
    *,
    machine: Machine,
    node: str,
    now: datetime,
    aging: timedelta,
) -> list[Job]:
    """The waiting jobs, who goes first first.

    Each place is given with those before it counted as running already: workspaces take turns.
    Those that cannot start on ``node`` now come last and take no turn of their workspace's others.

    Args:
        usage: Core-seconds that each workspace has used lately.
    """
    cores = Counter[str]()
    for job in running:
        cores[job.workspace] += job.cpus
    levels: dict[int, dict[str, list[Job]]] = {}
    last = []
    for job in sorted(queued, key=_age):
        if _unable(job, machine, node, now):
            last.append(job)
            continue
        levels.setdefault(_level(job, now, aging), {}).setdefault(job.workspace, []).append(job)
    ordered = []
    for level in sorted(levels, reverse=True):
        waiting = levels[level]
        while waiting:
            workspace = min(
                waiting,
                key=lambda one: (cores[one], usage.get(one, 0.0), waiting[one][0].waits_since, one),
            )
            job = waiting[workspace].pop(0)
            if not waiting[workspace]:
                del waiting[workspace]
            cores[workspace] += job.cpus or machine.cores
            ordered.append(job)
    return ordered + sorted(last, key=lambda one: -_level(one, now, aging))


def _level(job: Job, now: datetime, aging: timedelta) -> int:
    return job.priority + max(0, (now - job.waits_since) // aging)


def _age(job: Job) -> tuple[datetime, datetime, str]:
    return job.waits_since, job.create_time, job.id


def placed(
    ordered: Iterable[Job], running: Iterable[Job], machine: Machine, *, node: str, now: datetime
) -> list[Place]:
    """What becomes of each of ``ordered`` on this node, now."""
    free = _whole(machine)
    for job in running:
        if job.node == node:
            free -= needs_of(job, machine)
    promised = free
    places = []
    for position, job in enumerate(ordered, 1):
        needs = needs_of(job, machine)
        reason = _unable(job, machine, node, now)
        if not reason:
            lacking = free.lacks(needs)
            if lacking:
                reason = f"waits for {' and '.join(lacking)}"
            elif promised.lacks(needs):
                reason = "waits behind a job before it, which what is free is kept for"
            else:
                free -= needs
            promised -= needs
        places.append(Place(job, position, not reason, needs, reason))
    return places


def needs_of(job: Job, machine: Machine) -> Amount:
    """What ``job`` takes of ``machine``."""
    return Amount(
        job.cpus or machine.cores,
        job.memory_mib if machine.memory_mib else 0,
        len(job.gpu_ids) if job.state is not State.QUEUED else job.gpus,
    )


def _whole(machine: Machine) -> Amount:
    return Amount(machine.cores, machine.memory_mib, len(machine.gpus))


def _unable(job: Job, machine: Machine, node: str, now: datetime) -> str:
    """Why ``job`` does not start here now, however much is free; empty where it may."""
    needs = needs_of(job, machine)
    return _elsewhere(job, needs, _whole(machine), node, now) or _later(job, now)


def _elsewhere(job: Job, needs: Amount, whole: Amount, node: str, now: datetime) -> str:
    """Why this node leaves ``job`` to another; empty where it does not."""
    if job.node not in ("", node):
        moves_at = _moves_at(job)
        if moves_at is None:
            return f"waits for node {job.node}, which has its checkpoint"
        if now < moves_at:
            return (
                f"waits for node {job.node}, which has its checkpoint; that is in storage too, and "
                f"any node takes the job from {moves_at:%Y-%m-%dT%H:%M:%SZ} on"
            )
    lacking = whole.lacks(needs, "exists", "exist")
    if lacking:
        return f"waits for a larger machine than this one: it needs {' and '.join(lacking)}"
    return ""


def _moves_at(job: Job) -> datetime | None:
    """From when on any node may take it; None where its checkpoint is on its own node alone."""
    if job.checkpoint is None:
        return None
    last_end = job.history[-1].end_time if job.history else None
    waits_for_room = (job.waits_since, job.not_before, last_end)
    return max(time for time in waits_for_room if time is not None) + MOVES_AFTER


def _later(job: Job, now: datetime) -> str:
    if job.not_before is None or job.not_before <= now:
        return ""
    last = f"the last one ended with {job.history[-1].reason}" if job.history else "it failed"
    return (
        f"attempt {job.attempts + 1} begins at {job.not_before:%Y-%m-%dT%H:%M:%SZ}, "
        f"in {(job.not_before - now).total_seconds():.0f} s: {last}"
    )


def taken(running: Iterable[Job], node: str) -> tuple[set[int], set[str]]:
    """Processors and GPUs that belong to jobs of ``node``."""
    cores: set[int] = set()
    gpus: set[str] = set()
    for job in running:
        if job.node == node:
            cores.update(job.core_ids)
            gpus.update(job.gpu_ids)
    return cores, gpus
