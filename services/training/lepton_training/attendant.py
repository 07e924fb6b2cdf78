"""Attends to one job from its first process to its end.

An attendant starts the job's process, or finds the one that an earlier life of
the service started; takes what it reports into the record; stops it when the
job is cancelled or out of time; starts it again when it dies without a word, or
was ended while no service looked; and leaves nothing of it running.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_mesh.errors import LeptonError
from lepton_training import process
from lepton_training.changes import Changes
from lepton_training.events import WorkerEvent, read_events
from lepton_training.failure import describe_failure, disk_full
from lepton_training.job import Job, Measurement, Phase, State
from lepton_training.job_files import JOIN_TOKEN_FILE, JobFiles
from lepton_training.ports import CredentialIssuer, JobRepository
from lepton_training.process import ProcessId

log = logging.getLogger(__name__)

_ACTIVE = (State.RUNNING, State.CANCELLING)
_TOKEN_SECONDS = 7 * 24 * 3600
"""The longest that the auth service gives; without the job's certificate a token opens nothing."""
_SPARE_SECONDS = 24 * 3600
"""How much longer than its time a job's token holds: time while no service looks is not counted."""
_TAIL_SECONDS = 0.2
"""How often a running job's event file is read."""
_RETRY_SECONDS = 1.0
_STARTS_MAX = 4
"""A job whose process cannot be started this often, with longer and longer pauses, fails."""
_COUNT_SECONDS = 10.0
"""How much of a job's running time may be forgotten when this service is killed."""
_SETTLE_SECONDS = 0.5
"""A process that dies may be going down with everything around it, this service included."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What every attendant works with."""

    repository: JobRepository
    files: JobFiles
    credentials: CredentialIssuer
    changes: Changes
    command: Sequence[str]
    """Starts a job's process; it finds its job in LEPTON_JOB_DIR."""
    environment: Mapping[str, str]
    """Of every job's process, beside what is the job's own."""
    node: str
    """This machine (its state directory), as jobs record it."""
    kill_grace_seconds: float
    """Between SIGTERM and SIGKILL."""
    crashes_max: int
    """A job whose process died without a word this often fails."""


class Attendant:
    """One job's keeper; :meth:`run` returns when the job has ended."""

    def __init__(self, engine: Engine, job: Job) -> None:
        self._engine = engine
        self.job = job
        self._cancel = asyncio.Event()
        self._final: WorkerEvent | None = None
        self._unstarted = 0
        """How often its process could not be started."""
        self._counted: float | None = None
        """Up to when (``time.monotonic``) the record has the running time; None: nothing runs."""

    def cancel(self) -> None:
        """Makes it look at the job's record, which somebody set to CANCELLING."""
        self._cancel.set()

    async def run(self) -> None:
        """Sees the job to its end; cancelled, it leaves the process running."""
        job = self.job
        directory = self._engine.files.directory(job.workspace, job.id)
        if job.state is State.CANCELLING:
            self._cancel.set()
        # Before its first attempt nothing in its directory is its own.
        found = await asyncio.to_thread(process.recorded, directory) if job.attempts else None
        # RUNNING, and no process: the machine or the service died around its start.
        seen_alive = found is not None and await asyncio.to_thread(process.is_alive, found)
        while True:
            if found is not None:
                outcome = await self._follow(directory, found, seen_alive)
                if outcome is not None:
                    await self._end(directory, found, outcome)
                    return
            if self._cancel.is_set():
                await self._end(directory, found, {"state": State.CANCELLED})
                return
            try:
                found, seen_alive = await self._start(directory), True
            except (LeptonError, OSError) as error:  # one that trying again does not mend
                reason, message = describe_failure(error)
                failure = await asyncio.to_thread(self._failure, reason, message)
                await self._end(directory, None, failure)
                return

    async def _start(self, directory: Path) -> ProcessId | None:
        """Starts the process with fresh credentials; None when that must be tried again."""
        engine, job = self._engine, self.job
        if not job.attempts:
            await asyncio.to_thread(self._clear, directory)
        try:
            issued = await engine.credentials.issue(
                job.workspace,
                job.name,
                reads=[job.spec["dataset"]],
                writes=[job.spec["model"], job.name],
                ttl_seconds=self._token_seconds(),
            )
            join_address = await engine.credentials.join_address()
        except LeptonError as error:
            if not error.wire.retryable:
                raise
            log.warning(
                "credentials for a job cannot be had; trying again",
                extra={"job": job.name, "error": error.message},
            )
            await self._pause(_RETRY_SECONDS)
            return None
        await self._change({"attempts": job.attempts + 1})
        environment = {
            **engine.environment,
            "LEPTON_JOB_DIR": str(directory),
            "LEPTON_STATE_DIR": str(directory / "identity"),
            "LEPTON_JOIN_ADDRESS": join_address,
            "LEPTON_JOIN_TOKEN_FILE": str(directory / JOIN_TOKEN_FILE),
            "OMP_NUM_THREADS": str(job.cpus),
            "TMPDIR": str(directory),
        }
        try:
            await asyncio.to_thread(
                engine.files.prepare, self.job, issued.join_token, issued.access_token
            )
            return await asyncio.to_thread(process.start, engine.command, directory, environment)
        except OSError as error:
            self._unstarted += 1
            if disk_full(error) or self._unstarted >= _STARTS_MAX:
                raise
            log.warning("a job's process cannot be started; trying again", exc_info=True)
            await self._pause(_RETRY_SECONDS * 2 ** (self._unstarted - 1))
            return None

    def _token_seconds(self) -> int:
        limit: int = self.job.spec["resources"]["timeout_seconds"]
        if not limit:
            return _TOKEN_SECONDS
        left = max(0, math.ceil(limit - self.job.run_seconds))
        return min(_TOKEN_SECONDS, left + _SPARE_SECONDS)

    def _clear(self, directory: Path) -> None:
        """Makes room where an earlier job with this id left its files, or even its process.

        Its events would be taken for those of this job.
        """
        earlier = process.recorded(directory)
        if earlier is not None:
            process.signal_group(earlier, signal.SIGKILL)
        self._engine.files.remove(self.job.workspace, self.job.id)

    async def _follow(
        self, directory: Path, found: ProcessId, seen_alive: bool
    ) -> dict[str, Any] | None:
        """Takes in what the process reports until it is gone.

        One that was not ``seen_alive`` ended while no service looked, with the machine or by
        `lepton down`: it was interrupted, and that counts against nobody.

        Returns what to set on the job's record, or None when the process must be started again.
        """
        stop = _Stop(found, self._engine.kill_grace_seconds)
        timed_out = False
        with _watch_exit(found) as exited:
            self._counted = None if exited.is_set() else time.monotonic()
            while not exited.is_set():
                while await self._take_events(directory):
                    pass
                if self._uncounted() > _COUNT_SECONDS:
                    await self._change({})
                timed_out = timed_out or self._out_of_time()
                if self._cancel.is_set() or timed_out:
                    await asyncio.to_thread(stop.advance)
                await _wait_any(exited, _TAIL_SECONDS)
        if self._counted is not None:
            await self._change({})
            self._counted = None
        status = process.reap(found)
        # What it left behind must not write into the files of the next attempt.
        await asyncio.to_thread(process.signal_group, found, signal.SIGKILL)
        while await self._take_events(directory):
            pass
        if self._final is None and not seen_alive and not self._cancel.is_set():
            log.info("a job was interrupted; it goes on", extra={"job": self.job.name})
            return None
        outcome = await asyncio.to_thread(self._outcome, status, timed_out)
        if outcome is None:
            outcome = await self._crashed(status)
        return outcome

    def _outcome(self, status: int | None, timed_out: bool) -> dict[str, Any] | None:
        final = self._final
        if final is not None and final.kind == "succeeded":
            return {
                "state": State.SUCCEEDED,
                "model_version": final.content["model_version"],
                "metrics": {**self.job.metrics, **final.content["metrics"]},
                "progress": 1.0,
            }
        if self._cancel.is_set():
            return {"state": State.CANCELLED}
        if final is not None:
            return self._failure(final.content["reason"], final.content["message"])
        if timed_out:
            seconds = self.job.spec["resources"]["timeout_seconds"]
            return self._failure(
                "TIMEOUT",
                f"the job ran longer than its {seconds} s; raise resources.timeout_seconds "
                "or train for fewer epochs",
            )
        if status is not None and status > 0:
            return self._failure(
                "WORKER_FAILED",
                f"the job's process ended with {_describe(status)}; the end of its log says more",
            )
        return None

    async def _crashed(self, status: int | None) -> dict[str, Any] | None:
        """What becomes of a job whose process died before our eyes without a word."""
        # If this service is told to stop meanwhile, the job was interrupted with it.
        await self._pause(_SETTLE_SECONDS)
        crashes = self.job.crashes + 1
        if crashes >= self._engine.crashes_max:
            how = "ended" if status is None else f"ended with {_describe(status)}"
            return await asyncio.to_thread(
                self._failure,
                "WORKER_KILLED",
                f"the job's process {how} without a word, {crashes} times; "
                "often the machine was out of memory",
            )
        log.warning("a job's process died; starting it again", extra={"job": self.job.name})
        await self._change({"crashes": crashes})
        return None

    def _failure(self, reason: str, message: str) -> dict[str, Any]:
        job = self.job
        end = self._engine.files.log_end(job.workspace, job.id) if job.attempts else ""
        return {
            "state": State.FAILED,
            "failure_reason": reason,
            "failure_message": f"{message}\n\nend of the log:\n{end}" if end else message,
        }

    async def _end(self, directory: Path, found: ProcessId | None, changes: dict[str, Any]) -> None:
        if found is not None:
            await asyncio.to_thread(process.signal_group, found, signal.SIGKILL)
        await asyncio.to_thread(self._engine.files.clean, self.job, changes["state"])
        await self._change({**changes, "phase": Phase.NONE, "end_time": datetime.now(UTC)})
        log.info("job ended", extra={"job": self.job.name, "state": str(self.job.state)})

    async def _take_events(self, directory: Path) -> bool:
        """Moves new events into the record, in one transaction with the place they end at."""
        events = await asyncio.to_thread(read_events, directory, self.job.events_offset)
        if events and events[-1].final:
            # Stays unread in the record until the job's end is in it too: a service that
            # restarts in between finds it again.
            self._final = events.pop()
        if not events:
            return False
        # Up to the first change of phase: each has an event of its own in the record.
        turn = next((i for i, one in enumerate(events) if one.kind == "phase"), len(events))
        events = events[: turn + 1]
        changes: dict[str, Any] = {"events_offset": events[-1].end}
        measurements = []
        metrics = dict(self.job.metrics)
        epochs = self.job.epoch_seconds
        for event in events:
            if event.kind == "phase":
                changes |= {
                    "phase": Phase(event.content["phase"]),
                    "progress": event.content["progress"],
                }
            elif event.kind == "measurement":
                measurement = Measurement(**event.content)
                measurements.append(measurement)
                metrics |= measurement.metrics
                changes["progress"] = measurement.progress
                if measurement.epoch_end:
                    # A resumed job may report the epoch before its checkpoint again.
                    epochs = (*epochs[: measurement.epoch - 1], measurement.epoch_seconds)
        await self._change({**changes, "metrics": metrics, "epoch_seconds": epochs}, measurements)
        return True

    async def _change(
        self, changes: dict[str, Any], measurements: Sequence[Measurement] = ()
    ) -> None:
        uncounted = self._uncounted()
        updated = await self._engine.repository.change(
            self.job,
            _ACTIVE,
            {**changes, "run_seconds": self.job.run_seconds + uncounted},
            measurements,
        )
        if updated is None:
            raise RuntimeError(f"{self.job.name} ended while it was attended to")
        self.job = updated
        if self._counted is not None:
            self._counted += uncounted
        if updated.state is State.CANCELLING:
            self._cancel.set()
        self._engine.changes.notify(updated.workspace, updated.id)

    def _out_of_time(self) -> bool:
        limit = self.job.spec["resources"]["timeout_seconds"]
        return bool(limit and self.job.run_seconds + self._uncounted() > limit)

    def _uncounted(self) -> float:
        """Seconds that the process has run and the record does not know of."""
        return 0.0 if self._counted is None else time.monotonic() - self._counted

    async def _pause(self, seconds: float) -> None:
        await _wait_any(self._cancel, seconds)


class _Stop:
    """SIGTERM to a process's whole session, and SIGKILL after the grace."""

    def __init__(self, found: ProcessId, grace: float) -> None:
        self._found = found
        self._grace = grace
        self._asked = 0.0

    def advance(self) -> None:
        if not self._asked:
            self._asked = time.monotonic()
            process.signal_group(self._found, signal.SIGTERM)
        elif time.monotonic() - self._asked > self._grace:
            process.signal_group(self._found, signal.SIGKILL)


@contextmanager
def _watch_exit(found: ProcessId) -> Iterator[asyncio.Event]:
    """An event that is set once the process has ended, our child or one from an earlier life."""
    exited = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(found.pid)
    except ProcessLookupError:
        exited.set()
        yield exited
        return
    try:
        if process.is_alive(found):
            loop.add_reader(descriptor, exited.set)
        else:  # the id is free by now, or another's
            exited.set()
        yield exited
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _wait_any(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _describe(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
