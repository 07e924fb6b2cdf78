"""The embedded engine: runs queued jobs as subprocesses, as many as the machine has room for.

Which job goes first, and which may start, is said by :mod:`lepton_training.job_queue`. Stopping
the supervisor leaves the jobs' processes running: the next one finds them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from datetime import UTC, datetime

from lepton_training.attendant import Attendant
from lepton_training.engine import Engine
from lepton_training.job import Job, JobNotFound, Phase, State
from lepton_training.job_files import JobFilesRemain
from lepton_training.job_queue import Machine, Place, Queue, taken

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
"""How often the queue is read without being told: another instance may have queued a job."""
_SWEEP_SECONDS = 60.0
"""How often files are sought whose jobs were ended or deleted by another node's service."""
_STANDBY_SECONDS = 3.0
"""After this service's start, and after the last job has begun to train: then a process is started
ahead of the next. Before, a job chooses by how long steps take, and that is not to be disturbed."""
_LONGEST_PAUSE_SECONDS = 60.0
"""Between attempts to attend to a job, while for instance the database's disk is full."""


class Supervisor:
    """Every job of this node, from queue to end."""

    def __init__(
        self, engine: Engine, queue: Queue, machine: Machine, stopping: asyncio.Event
    ) -> None:
        """
        Args:
            stopping: Once set, jobs are left to the next life of the service: a process that
                ends from then on was not seen to crash, and none is started.
        """
        self._engine = engine
        self._queue = queue
        self._machine = machine
        self._stopping = stopping
        self._attended: dict[tuple[str, str], tuple[Attendant, asyncio.Task[None]]] = {}
        self._failures: dict[tuple[str, str], int] = {}
        """How often in a row attending to a job failed."""
        self._swept = 0.0
        self._last_preparing = 0.0
        """When a job was last seen that does not train yet (``time.monotonic``)."""
        self._woken = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes up the jobs that an earlier life of the service left, then the queue."""
        self._last_preparing = time.monotonic()
        for job in await self._engine.repository.active(self._engine.node):
            self._attend(job)
        await self._sweep(unfinished=False)
        self._loop = asyncio.create_task(self._run(), name="job queue")
        self._leaving = asyncio.create_task(self._leave(self._loop), name="leave jobs")

    async def close(self) -> None:
        """Stops attending; the jobs' processes go on."""
        self._stopping.set()
        if self._leaving is not None:
            await self._leaving

    async def _leave(self, loop: asyncio.Task[None]) -> None:
        await self._stopping.wait()
        tasks = [loop, *(task for _, task in self._attended.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._attended.clear()
        if self._engine.standby is not None:
            await asyncio.to_thread(self._engine.standby.close)

    def wake(self) -> None:
        """Looks at the queue, and at what jobs are asked to do, now."""
        self._woken.set()

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._turn()
            except Exception:  # whatever it is, the queue must go on
                log.exception("the job queue cannot be read; trying again")
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _turn(self) -> None:
        for key, (_, task) in list(self._attended.items()):
            if task.done():
                del self._attended[key]
                self._engine.changes.notify(*key)
        for job in await self._engine.repository.active(self._engine.node):
            found = self._attended.get((job.workspace, job.id))
            if found is None:
                self._attend(job)  # its attendant failed, on a full disk for instance
            elif job.state is not State.RUNNING:
                found[0].interrupt(job.state)
        if time.monotonic() - self._swept >= _SWEEP_SECONDS:
            await self._sweep(unfinished=True)
        places = await self._queue.places(datetime.now(UTC))
        for place in places:
            if place.starts and (place.job.workspace, place.job.id) not in self._attended:
                await self._begin(place)
        await self._prepare()

    async def _prepare(self) -> None:
        """Starts a process ahead of the next job, at a time when that disturbs no other."""
        standby = self._engine.standby
        phases = {attendant.job.phase for attendant, _ in self._attended.values()}
        if phases & {Phase.NONE, Phase.PREPARING}:
            self._last_preparing = time.monotonic()
        elif standby is not None and time.monotonic() - self._last_preparing >= _STANDBY_SECONDS:
            await asyncio.to_thread(standby.prepare)

    async def _sweep(self, *, unfinished: bool) -> None:
        """Cleans up after jobs that have ended and are not attended to; removes the files of those
        that are forgotten or went on elsewhere.

        Their data and tokens lie here where another node's service cancelled or deleted them. No
        job begins meanwhile: that is done by the same task.
        """
        files = self._engine.files
        known, forgotten = bool(self._attended), []
        for workspace, job_id in await asyncio.to_thread(files.present, unfinished=unfinished):
            if (workspace, job_id) in self._attended:
                continue
            try:
                job = await self._engine.repository.get(workspace, job_id)
            except JobNotFound:
                forgotten.append((workspace, job_id))
                continue
            known = True
            if job.left(self._engine.node):
                forgotten.append((workspace, job_id))
            elif job.state.ended:
                await asyncio.to_thread(files.clean, job, job.state)
        if forgotten and not known:
            # A setting that names another database must not cost anybody a job.
            log.warning("files of jobs of which the database knows none are left alone")
            forgotten = []
        for workspace, job_id in forgotten:
            with suppress(JobFilesRemain):  # it is in the log
                await asyncio.to_thread(files.remove, workspace, job_id)
        self._swept = time.monotonic()

    async def _begin(self, place: Place) -> None:
        job = place.job
        cores, gpus = taken(await self._engine.repository.running(), self._engine.node)
        there = os.sched_getaffinity(0)  # a machine may lose some while it runs
        free_cores = [one for one in self._machine.core_ids if one in there and one not in cores]
        free_gpus = [one for one in self._machine.gpus if one not in gpus]
        # All cores are as good as none in particular.
        bound = place.needs.cpus < self._machine.cores and place.needs.cpus <= len(free_cores)
        started = await self._engine.repository.change(
            job,
            [State.QUEUED],
            {
                "state": State.RUNNING,
                "node": self._engine.node,
                "cpus": place.needs.cpus,
                "start_time": job.start_time or datetime.now(UTC),
                "not_before": None,
                "core_ids": tuple(free_cores[: place.needs.cpus]) if bound else (),
                "gpu_ids": tuple(free_gpus[: place.needs.gpus]),
            },
        )
        if started is not None:
            self._attend(started)
            self._engine.changes.notify(job.workspace, job.id)

    def _attend(self, job: Job) -> None:
        attendant = Attendant(self._engine, job)
        task = asyncio.create_task(self._watch(attendant), name=job.name)
        self._attended[(job.workspace, job.id)] = (attendant, task)

    async def _watch(self, attendant: Attendant) -> None:
        key = (attendant.job.workspace, attendant.job.id)
        try:
            await attendant.run()
            self._failures.pop(key, None)
        except Exception:  # the job must not be lost: a later turn attends to it anew
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            log.exception("attending to a job failed", extra={"job": attendant.job.name})
            await asyncio.sleep(min(_POLL_SECONDS * 2 ** (failures - 1), _LONGEST_PAUSE_SECONDS))
        finally:
            self.wake()
