"""Runs a job in this process and turns whatever goes wrong into its last event."""

from __future__ import annotations

import fcntl
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_training.events import EventWriter, WorkerEvent, read_events
from lepton_training.failure import UNEXPECTED, describe_failure, worth_another_attempt
from lepton_training.job_files import read_request
from lepton_training.worker.checkpoint_keeper import CheckpointKeeper, Keeping
from lepton_training.worker.memory import keep_freed_memory
from lepton_training.worker.own.environments import Environments
from lepton_training.worker.own.job import run as run_own
from lepton_training.worker.platform import Platform

if TYPE_CHECKING:
    from lepton_training.worker.exporter import Exporter

log = logging.getLogger(__name__)

FAILED_STATUS = 1


def execute(
    directory: Path,
    connect: Callable[[], Platform],
    environments: Callable[[], Environments],
    keeping: Callable[[], Keeping],
) -> int:
    """Does the job in ``directory``; returns the process's exit status.

    Args:
        connect: Begins to connect and returns at once.
        environments: Where Python environments of users' code are kept.
        keeping: When the checkpoint is copied to storage.
    """
    _configure_log()
    keep_freed_memory()
    with _only_one(directory):
        # The last words of attempts that were followed by others are in the record already.
        begin = read_request(directory).get("events_offset", 0)
        if any(event.final for event in _all_events(directory, begin)):
            return 0  # an attempt that the service had lost sight of did it
        events = EventWriter(directory)
        try:
            _limit_memory(directory)
            with ExitStack() as stack:
                own = bool(read_request(directory)["spec"].get("code"))
                # Before connections are there: they have threads, which a fork would not.
                exporter = None if own else stack.enter_context(closing(_fork_exporter()))
                platform = stack.enter_context(closing(connect()))
                with CheckpointKeeper(directory, platform, events, keeping()) as keeper:
                    if exporter is None:
                        registered, metrics = run_own(
                            directory, platform, events, keeper, environments()
                        )
                    else:
                        from lepton_training.worker.pipeline import run  # noqa: PLC0415 - as above

                        registered, metrics = run(directory, platform, events, keeper, exporter)
                events.write("succeeded", model_version=registered, metrics=metrics)
        except Exception as error:  # every failure has a reason and reaches the service
            reason, message = describe_failure(error)
            # A traceback helps only where the message does not say it all.
            log.exception("%s: %s", reason, message, exc_info=reason == UNEXPECTED)
            events.write(
                "failed", reason=reason, message=message, retryable=worth_another_attempt(error)
            )
            return FAILED_STATUS
    return 0


def load() -> None:
    """Loads what a job of a recipe needs, ahead of the job."""
    from matplotlib.backends import backend_agg  # noqa: F401, PLC0415 - it takes long as well

    from lepton_training.worker import exporter, pipeline  # noqa: F401, PLC0415 - loads PyTorch

    exporter.load()


def _fork_exporter() -> Exporter:
    # Users' own code has a PyTorch of its own, or none.
    from lepton_training.worker.exporter import Exporter  # noqa: PLC0415 - loads PyTorch

    return Exporter.fork()


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Waits until no other process does this job."""
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _all_events(directory: Path, offset: int) -> Iterator[WorkerEvent]:
    while events := read_events(directory, offset):
        yield from events
        offset = events[-1].end


def _limit_memory(directory: Path) -> None:
    """Makes allocations beyond the job's memory fail (RLIMIT_DATA of setrlimit(2))."""
    megabytes = read_request(directory)["spec"]["resources"]["memory_mib"]
    if megabytes:
        resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


def _configure_log() -> None:
    """Lines begin with the time, in UTC: the service gives it back with each line."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03d+00:00 %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
