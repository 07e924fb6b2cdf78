"""What users do with jobs: create, look, wait, pause, stop, delete."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lepton_mesh.errors import FailedPrecondition, Unavailable
from lepton_mesh.resources import (
    InvalidId,
    InvalidPage,
    Page,
    check_id,
    check_request_id,
    parse_name,
)
from lepton_training.changes import Changes
from lepton_training.job import (
    Event,
    Job,
    JobActive,
    JobExists,
    JobNotFound,
    JobNotPausable,
    JobNotPaused,
    State,
)
from lepton_training.job_files import JobFiles
from lepton_training.job_queue import Machine, Place, Queue
from lepton_training.own_code import ARCHIVE_MAX, MEDIA_TYPE, Code
from lepton_training.ports import Artifacts, Datasets, DatasetVersion, JobRepository, Models
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.spec import JobSpec, JobSpecInvalid, check_size, parse_spec
from lepton_training.supervisor import Supervisor
from lepton_training.warm_origin import check_origin
from lepton_training.warm_start import PAPERS_FILE, PREPROCESSING_FILE, WEIGHTS_FILE

PAGE_KEY = (int, str)
"""Types of a page's key: microseconds of the create time since 1970, and the job's id."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVENTS_AT_ONCE = 500
_POLL_SECONDS = 1.0
_LOG_POLL_SECONDS = 0.25
_LINE_MAX = 16 * 1024


class ServiceStopping(Unavailable):
    reason = "TRAINING_STOPPING"


class JobElsewhere(FailedPrecondition):
    reason = "JOB_ELSEWHERE"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a job's log."""

    time: datetime
    text: str


class Jobs:
    """The jobs of all workspaces; every method is told which one it is about."""

    def __init__(
        self,
        *,
        repository: JobRepository,
        files: JobFiles,
        datasets: Datasets,
        models: Models,
        artifacts: Artifacts,
        supervisor: Supervisor,
        changes: Changes,
        machine: Machine,
        queue: Queue,
        node: str,
        stopping: asyncio.Event,
    ) -> None:
        """
        Args:
            machine: What a spec may ask for.
            node: This machine (its state directory), as jobs record it.
            stopping: Once set, streams end.
        """
        self._repository = repository
        self._files = files
        self._datasets = datasets
        self._models = models
        self._artifacts = artifacts
        self._supervisor = supervisor
        self._changes = changes
        self._machine = machine
        self._queue = queue
        self._node = node
        self._stopping = stopping

    async def create(
        self,
        workspace: str,
        creator: str,
        document: Mapping[str, Any],
        *,
        job_id: str = "",
        request_id: str = "",
        validate_only: bool = False,
    ) -> Job:
        """Queues a job; with ``validate_only`` everything is checked and nothing is kept.

        Raises:
            JobSpecInvalid: With every fault of the spec.
            InvalidId, JobExists: The id cannot be used.
            InvalidRequestId: It is too long, or has characters that cannot be shown.
        """
        if job_id:
            check_id(job_id, "job_id")
        check_request_id(request_id)
        check_size(document)
        spec = parse_spec(
            document,
            cores=self._machine.cores,
            memory_mib=self._machine.memory_mib,
            gpus=len(self._machine.gpus),
        )
        version = await self._dataset(spec, "spec.dataset", spec.dataset)
        spec, warm_files = await self._warm(spec)
        if spec.code is not None:
            spec = replace(spec, code=await self._resolved(spec.code))
        kind = (spec.recipe or "code").replace("_", "-")
        job = Job(
            workspace=workspace,
            id=job_id or f"{kind}-{secrets.token_hex(4)}",
            spec={**spec.to_dict(), "dataset": version.name},
            creator=creator,
            create_time=datetime.now(UTC),
            cpus=spec.resources.cpus,
            dataset_digest=version.digest,
            warm_files=warm_files,
            request_id=request_id,
        )
        if validate_only:
            await self._check_free(job)
            return job
        created = await self._repository.create(job)
        self._supervisor.wake()
        return created

    async def _dataset(self, spec: JobSpec, path: str, name: str) -> DatasetVersion:
        """The version, of a format that the spec's kind of data has. Raises JobSpecInvalid."""
        version = await self._datasets.resolve(name)
        formats = spec.data_kind.formats if spec.data_kind is not None else ()
        if formats and version.format not in formats:
            raise JobSpecInvalid(
                [
                    Fault(
                        path,
                        f"{version.name} has format {version.format}; {spec.trains} "
                        f"trains on {' or '.join(formats)}",
                    )
                ]
            )
        return version

    async def _warm(self, spec: JobSpec) -> tuple[JobSpec, dict[str, tuple[str, str]]]:
        """The spec with what it begins with resolved, and the files of that with their digests.

        Raises JobSpecInvalid.
        """
        warm = spec.warm_start
        if warm is None:
            return spec, {}
        version = await self._models.resolve(warm.model_version)
        check_origin(version, spec.recipe)
        files = {
            name: (artifact, (await self._artifacts.resolve(artifact)).sha256)
            for name, artifact in version.attachments.items()
            if name in (WEIGHTS_FILE, PAPERS_FILE, PREPROCESSING_FILE)
        }
        retain = warm.retain
        if retain is not None:
            older = await self._dataset(
                spec, "spec.warm_start.retain.dataset", retain.dataset or version.dataset
            )
            retain = replace(retain, dataset=older.name)
        resolved = replace(warm, model_version=version.name, retain=retain)
        return replace(spec, warm_start=resolved), files

    async def _resolved(self, code: Code) -> Code:
        """The code with the digest that its archive has in storage."""
        artifact = await self._artifacts.resolve(code.artifact)
        if artifact.media_type != MEDIA_TYPE:
            wrong = f"is {artifact.media_type}, and not {MEDIA_TYPE}"
            raise JobSpecInvalid([Fault("spec.code.artifact", wrong)])
        if artifact.size_bytes > ARCHIVE_MAX:
            raise JobSpecInvalid(
                [
                    Fault(
                        "spec.code.artifact",
                        f"has {artifact.size_bytes} bytes; code has at most {ARCHIVE_MAX}, and "
                        "larger files belong into a dataset",
                    )
                ]
            )
        return replace(code, sha256=artifact.sha256)

    async def _check_free(self, job: Job) -> None:
        try:
            found = await self._repository.get(job.workspace, job.id)
        except JobNotFound:
            return
        if not job.request_id or found.request_id != job.request_id:
            raise JobExists(f"{job.name} exists; choose another id", job=job.name)

    async def get(self, workspace: str, name: str) -> Job:
        """Raises JobNotFound, InvalidName."""
        return await self._repository.get(workspace, _job_id(name))

    async def list_page(self, workspace: str, page: Page) -> tuple[list[Job], str]:
        """A page of jobs, newest first, and the next page's token; its key is :data:`PAGE_KEY`.

        Raises InvalidPage.
        """
        jobs = await self._repository.list_newest(workspace, page.size + 1, _before(page))
        if len(jobs) <= page.size:
            return jobs, ""
        last = jobs[page.size - 1]
        since = (last.create_time - _EPOCH) // timedelta(microseconds=1)
        return jobs[: page.size], page.token(since, last.id)

    async def waiting(self, jobs: Sequence[Job]) -> dict[tuple[str, str], Place]:
        """The places of those of ``jobs`` that wait, by workspace and id."""
        wanted = {(job.workspace, job.id) for job in jobs if job.state is State.QUEUED}
        if not wanted:
            return {}
        places = await self._queue.places(datetime.now(UTC))
        found = {(place.job.workspace, place.job.id): place for place in places}
        return {key: found[key] for key in wanted & found.keys()}

    async def pause(self, workspace: str, name: str) -> Job:
        """Asks a job to give back what it holds; one that is paused is returned as it is.

        Raises JobNotPausable, JobNotFound.
        """
        while True:
            job = await self.get(workspace, name)
            if job.state in (State.PAUSING, State.PAUSED):
                return job
            if job.state not in (State.QUEUED, State.RUNNING):
                raise JobNotPausable(
                    f"{name} is {job.state}; only a job that waits or runs can be paused", job=name
                )
            target = State.PAUSED if job.state is State.QUEUED else State.PAUSING
            updated = await self._move(job, {"state": target})
            if updated is not None:
                return updated

    async def resume(self, workspace: str, name: str) -> Job:
        """Queues a paused job again; one that waits or runs is returned as it is.

        Raises JobNotPaused, JobNotFound.
        """
        while True:
            job = await self.get(workspace, name)
            if job.state in (State.QUEUED, State.RUNNING):
                return job
            if job.state is not State.PAUSED:
                wait = " yet; wait until it is PAUSED" if job.state is State.PAUSING else ""
                raise JobNotPaused(f"{name} is {job.state}, and not paused{wait}", job=name)
            changes = {
                "state": State.QUEUED,
                "queue_time": datetime.now(UTC),
                "not_before": None,
            }
            updated = await self._move(job, changes)
            if updated is not None:
                return updated

    async def _move(self, job: Job, changes: dict[str, Any]) -> Job | None:
        """The changed job; None when it moved on meanwhile: look again."""
        updated = await self._repository.change(job, [job.state], changes)
        if updated is not None:
            self._changes.notify(job.workspace, job.id)
            self._supervisor.wake()
        return updated

    async def cancel(self, workspace: str, name: str) -> Job:
        """Asks a job to stop; a job that has ended is returned as it is."""
        while True:
            job = await self.get(workspace, name)
            if job.state in (State.QUEUED, State.PAUSED):
                changes: dict[str, Any] = {"state": State.CANCELLED, "checkpoint": None}
                changes["end_time"] = datetime.now(UTC)
            elif job.state in (State.RUNNING, State.PAUSING):
                changes = {"state": State.CANCELLING}
            else:
                return job
            updated = await self._move(job, changes)
            if updated is not None:
                if updated.state is State.CANCELLED and updated.node == self._node:
                    await asyncio.to_thread(self._files.clean, updated, updated.state)
                return updated

    async def delete(self, workspace: str, name: str) -> None:
        """Forgets a job that has ended, then deletes its files on this node.

        Raises JobActive, JobNotFound; JobFilesRemain where it is forgotten and some files stay.
        """
        job = await self.get(workspace, name)
        if not job.state.ended:
            raise JobActive(
                f"{name} is {job.state}; cancel it and wait until it has ended", job=name
            )
        # The record first, if it is still this job's: of two who delete it, the later would take
        # the files of the next one with this id.
        if not await self._repository.delete(job):
            raise JobNotFound(job.name)
        await asyncio.to_thread(self._files.remove, workspace, job.id)

    async def watch(self, workspace: str, name: str, after: int) -> AsyncIterator[Event]:
        """Every event after ``after``, those of the past first, until the job has ended."""
        job_id = _job_id(name)
        while True:
            # Read before the events: what happens in between is then not missed.
            ended = (await self._repository.get(workspace, job_id)).state.ended
            events = await self._repository.events(workspace, job_id, after, _EVENTS_AT_ONCE)
            for event in events:
                after = event.sequence
                yield event
            if events:
                continue
            if ended:
                return
            self._check_stopping()
            await self._changes.wait(workspace, job_id, _POLL_SECONDS)

    async def logs(self, workspace: str, name: str, follow: bool) -> AsyncIterator[LogLine]:
        """The log from its first line; with ``follow``, until the job has ended.

        Raises JobElsewhere, JobNotFound.
        """
        job = await self.get(workspace, name)
        offset, rest, when = 0, b"", job.start_time or job.create_time
        while True:
            job = await self._repository.get(workspace, job.id)
            ended = job.state.ended
            if job.node not in ("", self._node):
                raise JobElsewhere(
                    f"the log of {job.name} is on node {job.node}, and this is node {self._node}; "
                    "ask the training service of that node",
                    job=job.name,
                    node=job.node,
                )
            content = b""
            if job.attempts:  # otherwise what lies there is another job's
                content = await asyncio.to_thread(self._files.read_log, workspace, job.id, offset)
            offset += len(content)
            *lines, rest = (rest + content).split(b"\n")
            rest = rest[:_LINE_MAX]  # nobody sees more of it, however long it grows
            for line in lines:
                parsed = parse_line(line, when)
                when = parsed.time
                yield parsed
            if content:
                continue
            if ended or not follow:
                if rest:
                    yield parse_line(rest, when)
                return
            self._check_stopping()
            await self._changes.wait(workspace, job.id, _LOG_POLL_SECONDS)

    def _check_stopping(self) -> None:
        """Ends a stream that would hold up the end of this process."""
        if self._stopping.is_set():
            raise ServiceStopping("the training service is about to stop; ask again, jobs go on")


def parse_line(line: bytes, earlier: datetime) -> LogLine:
    """A line with the time it begins with; one without has the time of the line before it."""
    text = line[:_LINE_MAX].decode(errors="replace")
    stamp, _, rest = text.partition(" ")
    try:
        time = datetime.fromisoformat(stamp)
    except ValueError:
        return LogLine(earlier, text)
    return LogLine(time, rest) if time.tzinfo else LogLine(earlier, text)


def _job_id(name: str) -> str:
    (job_id,) = parse_name("jobs/{job}", name)
    return job_id


def _before(page: Page) -> tuple[datetime, str] | None:
    """The create time and id that the page begins after."""
    if page.after is None:
        return None
    microseconds, job_id = page.after
    try:
        return _EPOCH + timedelta(microseconds=microseconds), check_id(job_id, "page_token")
    except (OverflowError, InvalidId):
        raise InvalidPage("page_token is not one that this list gave; begin without one") from None
