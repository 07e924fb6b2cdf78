"""What the platform adds to training, and what two jobs at once are worth, on a running stack."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lepton.api.training.v1 import training_pb2 as pb
from lepton.client import Client, spec_from_mapping
from lepton_local.steps import TrainingFailed

_AIM_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Moments:
    """When what happened to one job, in seconds since the epoch."""

    submitted: float
    """Before the call that creates it."""
    first_step: float
    """Its data is read, its plan chosen: training begins."""
    last_step: float
    registered: float
    """Its client knows that it has succeeded: evaluated, exported, compared, registered."""

    @property
    def before(self) -> float:
        return self.first_step - self.submitted

    @property
    def after(self) -> float:
        return self.registered - self.last_step


def follow(lepton: Client, spec: Mapping[str, Any]) -> Moments:
    """Runs a job to its end.

    Raises:
        TrainingFailed: With the job's reason.
    """
    submitted = time.time()
    name = lepton.jobs.create(spec_from_mapping(spec)).name
    registered = _succeeded(lepton, name)
    # By the clock of the job's own process, and not by when others heard of it.
    entered = {line.text: line.time.ToNanoseconds() / 1e9 for line in lepton.jobs.logs(name)}
    return Moments(submitted, entered["training"], entered["evaluating"], registered)


def _succeeded(lepton: Client, name: str) -> float:
    """When the job was known to have succeeded, in seconds since the epoch; see follow."""
    for _ in lepton.jobs.watch(name):
        pass
    ended = time.time()
    job = lepton.jobs.get(name)
    if job.state != pb.Job.SUCCEEDED:
        raise TrainingFailed(f"{name} failed ({job.failure_reason}): {job.failure_message}")
    return ended


def overhead(lepton: Client, specs: Mapping[str, Mapping[str, Any]], rounds: int) -> dict[str, Any]:
    """Seconds from submit to first step, and from last step to registered; medians by recipe."""
    taken: dict[str, list[Moments]] = {name: [] for name in specs}
    for _ in range(rounds):
        for name, spec in specs.items():
            taken[name].append(follow(lepton, spec))
    return {name: overhead_of(moments) for name, moments in taken.items()}


def overhead_of(moments: list[Moments]) -> dict[str, Any]:
    """The figures of one recipe's jobs."""
    together = statistics.median(each.before + each.after for each in moments)
    return {
        "submit_to_first_step_seconds": _median(moments, lambda each: each.before),
        "last_step_to_registered_seconds": _median(moments, lambda each: each.after),
        "together_seconds": round(together, 2),
        "rounds": [[round(each.before, 2), round(each.after, 2)] for each in moments],
        "aim": f"< {_AIM_SECONDS:g}",
        "met": together < _AIM_SECONDS,
    }


def two_jobs(lepton: Client, spec: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """Two jobs of ``spec`` at once with a core each, against one after the other with two."""

    def seconds(cpus: int, together: int) -> float:
        given = spec_from_mapping({**spec, "resources": {"cpus": cpus}})
        began = time.monotonic()
        for _ in range(2 // together):
            # Without threads, which a Ctrl-C would have to wait for until their jobs have ended.
            for name in [lepton.jobs.create(given).name for _ in range(together)]:
                _succeeded(lepton, name)
        return time.monotonic() - began

    at_once, one_by_one = [], []
    for _ in range(rounds):
        at_once.append(seconds(cpus=1, together=2))
        one_by_one.append(seconds(cpus=2, together=1))
    ratio = statistics.median(b / a for a, b in zip(at_once, one_by_one, strict=True))
    return {
        "at_once_seconds": round(statistics.median(at_once), 1),
        "one_after_the_other_seconds": round(statistics.median(one_by_one), 1),
        "times_faster_at_once": round(ratio, 2),
        "rounds": [[round(a, 1), round(b, 1)] for a, b in zip(at_once, one_by_one, strict=True)],
    }


def _median(moments: list[Moments], figure: Callable[[Moments], float]) -> float:
    return round(statistics.median(figure(each) for each in moments), 2)
