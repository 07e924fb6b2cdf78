"""Attends to one job while it has a process, from its start to its end.

An attendant starts the job's process, or finds the one that an earlier life of
the service started; takes what it reports into the record; stops it when the
job is cancelled, paused or out of time, or takes too much memory; starts it again
when it was ended while no service looked; gives it back to the queue when an attempt
failed that is worth another; and leaves nothing of it running.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lepton_mesh.errors import LeptonError
from lepton_training import process
from lepton_training.engine import Engine
from lepton_training.events import WorkerEvent, events_bytes, read_events
from lepton_training.exits import Stop, describe, wait_any, watch_exit
from lepton_training.failure import UNEXPECTED, describe_failure, disk_full, memory_exceeded
from lepton_training.intake import absorb
from lepton_training.job import HISTORY_MAX, WITH_PROCESS, Attempt, Job, Measurement, Phase, State
from lepton_training.job_credentials import JobKeys
from lepton_training.job_files import JOIN_TOKEN_FILE
from lepton_training.process import ProcessId
from lepton_training.spec import Retry

log = logging.getLogger(__name__)

_TAIL_SECONDS = 0.2
"""How often a running job's event file is read."""
_RETRY_SECONDS = 1.0
_STARTS_MAX = 4
"""A job whose process cannot be started this often, with longer and longer pauses, fails."""
_COUNT_SECONDS = 10.0
"""How much of a job's running time may be forgotten when this service is killed."""
_MEMORY_SECONDS = 1.0
"""How often the memory of a job that has a limit is measured."""
_SETTLE_SECONDS = 0.5
"""A process that dies may be going down with everything around it, this service included."""


class Attendant:
    """One job's keeper; :meth:`run` returns when the job has ended, is paused, or waits again."""

    def __init__(self, engine: Engine, job: Job) -> None:
        self._engine = engine
        self.job = job
        self._keys = JobKeys(engine)
        self._interrupt = asyncio.Event()
        """Set once somebody wants the process to end."""
        self._wanted = State.CANCELLED
        """What the job is to be then."""
        self._final: WorkerEvent | None = None
        self._unstarted = 0
        """How often its process could not be started."""
        self._counted: float | None = None
        """Up to when (``time.monotonic``) the record has the running time; None: nothing runs."""

    def interrupt(self, state: State) -> None:
        """Ends the process of a job that somebody set to CANCELLING or PAUSING."""
        self._wanted = State.PAUSED if state is State.PAUSING else State.CANCELLED
        self._interrupt.set()

    async def run(self) -> None:
        """Sees the job to its end; cancelled, it leaves the process running."""
        job = self.job
        directory = self._engine.files.directory(job.workspace, job.id)
        if job.state is not State.RUNNING:
            self.interrupt(job.state)
        mine = not self._new_here()
        found = await asyncio.to_thread(process.recorded, directory) if mine else None
        # RUNNING, and no process: the machine or the service died around its start.
        seen_alive = found is not None and await asyncio.to_thread(process.is_alive, found)
        while True:
            if found is not None:
                outcome = await self._follow(directory, found, seen_alive)
                if outcome is not None:
                    await self._end(directory, found, outcome)
                    return
            if self._interrupt.is_set():
                await self._end(directory, found, {"state": self._wanted})
                return
            try:
                found, seen_alive = await self._start(directory), True
            except process.CoresGone:  # others are chosen when it starts again
                log.warning("a job's processors are gone", extra={"job": job.name})
                history = self._history("INTERRUPTED", "its processors are gone")
                await self._end(directory, None, {"state": State.QUEUED, "history": history})
                return
            except (LeptonError, OSError) as error:  # one that trying again does not mend
                reason, message = describe_failure(error, "the training service's log")
                if reason == UNEXPECTED:
                    log.exception("a job cannot be started", extra={"job": job.name})
                failure = await asyncio.to_thread(self._failure, reason, message)
                await self._end(directory, None, failure)
                return

    def _new_here(self) -> bool:
        """Whether its directory has nothing of it: it never ran, or ran on another node last."""
        *_, last = self.job.history or (None,)
        elsewhere = last is not None and last.node not in ("", self._engine.node)
        return elsewhere or not self.job.attempts

    async def _start(self, directory: Path) -> ProcessId | None:
        """Starts the process with fresh credentials; None when that must be tried again."""
        engine, job = self._engine, self.job
        if self._new_here():
            await asyncio.to_thread(self._clear, directory)
        try:
            issued = await self._keys.issue(job)
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
        begun = Attempt(job.attempts + 1, datetime.now(UTC), node=engine.node)
        history = (*self._history("INTERRUPTED"), begun)[-HISTORY_MAX:]
        # A directory that is new, or was lost, has no events that are in the record already.
        offset = min(job.events_offset, await asyncio.to_thread(events_bytes, directory))
        await self._change({"attempts": begun.number, "history": history, "events_offset": offset})
        environment = {
            **engine.environment,
            "LEPTON_JOB_DIR": str(directory),
            "LEPTON_STATE_DIR": str(directory / "identity"),
            "LEPTON_JOIN_ADDRESS": join_address,
            "LEPTON_JOIN_TOKEN_FILE": str(directory / JOIN_TOKEN_FILE),
            "OMP_NUM_THREADS": str(job.cpus),
            "TMPDIR": str(directory),
            "CUDA_VISIBLE_DEVICES": ",".join(job.gpu_ids),
            # Without it cuBLAS adds in an order that changes; it has no effect elsewhere.
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        }
        try:
            await asyncio.to_thread(
                engine.files.prepare, self.job, issued.join_token, issued.access_token
            )
            return await asyncio.to_thread(self._launch, directory, environment)
        except OSError as error:
            self._unstarted += 1
            hopeless = disk_full(error) or isinstance(error, process.CoresGone)
            if hopeless or self._unstarted >= _STARTS_MAX:
                raise
            log.warning("a job's process cannot be started; trying again", exc_info=True)
            await self._pause(_RETRY_SECONDS * 2 ** (self._unstarted - 1))
            return None

    def _launch(self, directory: Path, environment: Mapping[str, str]) -> ProcessId:
        standby, cores = self._engine.standby, self.job.core_ids
        # Users' own code has a Python environment of its own: nothing is loaded for it here.
        if standby is not None and not self.job.spec.get("code"):
            found = standby.start(directory, environment, cores)
            if found is not None:
                return found
        return process.start(self._engine.command, directory, environment, cores)

    def _clear(self, directory: Path) -> None:
        """Makes room where an earlier job with this id, or this one before it went to another node
        and came back, left its files, or even its process.

        Its events would be taken for new ones, and an old checkpoint for the newest.
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
        job = self.job
        stop = Stop(found, self._engine.kill_grace_seconds)
        timed_out, too_large = False, 0
        measured = time.monotonic()
        with watch_exit(found) as exited:
            self._counted = None if exited.is_set() else time.monotonic()
            while not exited.is_set():
                while await self._take_events(directory):
                    pass
                if self._uncounted() > _COUNT_SECONDS:
                    await self._keys.renew(self.job)
                    await self._change({})
                timed_out = timed_out or self._out_of_time()
                if job.memory_mib and time.monotonic() - measured > _MEMORY_SECONDS:
                    measured = time.monotonic()
                    used = await asyncio.to_thread(process.session_memory_mib, found)
                    if used > job.memory_mib:
                        too_large = used
                        await asyncio.to_thread(process.signal_group, found, signal.SIGKILL)
                if self._interrupt.is_set() or timed_out:
                    await asyncio.to_thread(stop.advance)
                await wait_any(exited, _TAIL_SECONDS)
        if self._counted is not None:
            await self._change({})
            self._counted = None
        status = process.reap(found)
        # What it left behind must not write into the files of the next attempt.
        await asyncio.to_thread(process.signal_group, found, signal.SIGKILL)
        while await self._take_events(directory):
            pass
        if self._final is None and not seen_alive and not self._interrupt.is_set():
            log.info("a job was interrupted; it goes on", extra={"job": self.job.name})
            await self._change({"history": self._history("INTERRUPTED")})
            return None
        outcome = await asyncio.to_thread(self._outcome, status, timed_out, too_large)
        return outcome or await self._crashed(status)

    def _outcome(
        self, status: int | None, timed_out: bool, too_large: int
    ) -> dict[str, Any] | None:
        final = self._final
        if final is not None and final.kind == "succeeded":
            return {
                "state": State.SUCCEEDED,
                "model_version": final.content["model_version"],
                "metrics": {**self.job.metrics, **final.content["metrics"]},
                "progress": 1.0,
            }
        if self._interrupt.is_set() and (final is None or self._wanted is State.CANCELLED):
            return {"state": self._wanted}
        if final is not None:
            retry = self._retry if final.content.get("retryable") else self._failure
            return retry(final.content["reason"], final.content["message"])
        cause = self._cause(status, timed_out, too_large)
        return None if cause is None else self._failure(*cause)

    def _cause(self, status: int | None, timed_out: bool, too_large: int) -> tuple[str, str] | None:
        """The reason and the message of an end that the process itself says nothing of."""
        if too_large:
            return memory_exceeded(too_large, self.job.memory_mib)
        if timed_out:
            seconds = self.job.spec["resources"]["timeout_seconds"]
            return (
                "TIMEOUT",
                f"the job ran longer than its {seconds} s; raise resources.timeout_seconds "
                "or train for fewer epochs",
            )
        if status is not None and status > 0:
            return (
                "WORKER_FAILED",
                f"the job's process ended with {describe(status)}; the end of its log says more",
            )
        return None

    async def _crashed(self, status: int | None) -> dict[str, Any]:
        """What becomes of a job whose process died before our eyes without a word."""
        # If this service is told to stop meanwhile, the job was interrupted with it.
        await self._pause(_SETTLE_SECONDS)
        how = "ended" if status is None else f"ended with {describe(status)}"
        times = self.job.crashes + 1
        return await asyncio.to_thread(
            self._retry,
            "WORKER_KILLED",
            f"the job's process {how} without a word, {times} time{'s' * (times > 1)}; "
            "often the machine was out of memory",
        )

    def _retry(self, reason: str, message: str) -> dict[str, Any]:
        """Back to the queue for another attempt, unless there were enough."""
        job = self.job
        crashes = job.crashes + 1
        retry = Retry(**job.spec.get("retry", {}))
        if crashes >= (retry.max_attempts or self._engine.crashes_max):
            return self._failure(reason, message) | {"crashes": crashes}
        seconds = retry.backoff_seconds(crashes)
        log.warning(
            "an attempt of a job failed; trying again",
            extra={"job": job.name, "reason": reason, "seconds": seconds},
        )
        return {
            "state": State.QUEUED,
            "crashes": crashes,
            "queue_time": datetime.now(UTC),
            "not_before": datetime.now(UTC) + timedelta(seconds=seconds),
            "history": self._history(reason, message),
        }

    def _failure(self, reason: str, message: str) -> dict[str, Any]:
        job = self.job
        # The end of the log of an error that nobody foresaw would be the platform's own traceback.
        shown = job.attempts and reason != UNEXPECTED
        end = self._engine.files.log_end(job.workspace, job.id) if shown else ""
        return {
            "state": State.FAILED,
            "failure_reason": reason,
            "failure_message": f"{message}\n\nend of the log:\n{end}" if end else message,
        }

    async def _end(self, directory: Path, found: ProcessId | None, changes: dict[str, Any]) -> None:
        """Writes how it ended, or that it is to go on later."""
        if found is not None:
            await asyncio.to_thread(process.signal_group, found, signal.SIGKILL)
        await self._change({})
        if not changes["state"].ended and self._interrupt.is_set():  # since it was decided
            changes["state"] = self._wanted
        state = changes["state"]
        reason = changes.get("failure_reason") or ("" if state is State.SUCCEEDED else str(state))
        message, _, _ = changes.get("failure_message", "").partition("\n\n")
        changes = {"history": self._history(reason, message), **changes, "phase": Phase.NONE}
        if state.ended:
            await asyncio.to_thread(self._engine.files.clean, self.job, state)
            if state is not State.FAILED:  # which somebody may want to go on from
                changes["checkpoint"] = None
            changes["end_time"] = datetime.now(UTC)
        elif self._final is not None:  # the next attempt has its own last word
            changes["events_offset"] = self._final.end
        await self._change(changes | {"core_ids": (), "gpu_ids": ()})
        log.info("job left its node", extra={"job": self.job.name, "state": str(self.job.state)})

    def _history(self, reason: str, message: str = "") -> tuple[Attempt, ...]:
        """The attempts, the last of which is over."""
        *earlier, last = self.job.history or (None,)
        if last is None or last.end_time is not None:
            return self.job.history
        return (*earlier, replace(last, end_time=datetime.now(UTC), reason=reason, message=message))

    async def _take_events(self, directory: Path) -> bool:
        """Moves new events into the record, in one transaction with the place they end at."""
        events = await asyncio.to_thread(read_events, directory, self.job.events_offset)
        if events and events[-1].final:
            # Stays unread in the record until the job's end is in it too: a service that
            # restarts in between finds it again.
            self._final = events.pop()
        if not events:
            return False
        await self._change(*absorb(self.job, events))
        return True

    async def _change(
        self, changes: dict[str, Any], measurements: Sequence[Measurement] = ()
    ) -> None:
        uncounted = self._uncounted()
        updated = await self._engine.repository.change(
            self.job,
            WITH_PROCESS,
            {**changes, "run_seconds": self.job.run_seconds + uncounted},
            measurements,
        )
        if updated is None:
            raise RuntimeError(f"{self.job.name} ended while it was attended to")
        self.job = updated
        if self._counted is not None:
            self._counted += uncounted
        if updated.state in (State.CANCELLING, State.PAUSING):
            self.interrupt(updated.state)
        self._engine.changes.notify(updated.workspace, updated.id)

    def _out_of_time(self) -> bool:
        limit = self.job.spec["resources"]["timeout_seconds"]
        return bool(limit and self.job.run_seconds + self._uncounted() > limit)

    def _uncounted(self) -> float:
        """Seconds that the process has run and the record does not know of."""
        return 0.0 if self._counted is None else time.monotonic() - self._counted

    async def _pause(self, seconds: float) -> None:
        await wait_any(self._interrupt, seconds)
