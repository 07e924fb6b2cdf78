"""Jobs in the service's database."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lepton_mesh.database import Database
from lepton_training.job import (
    TRANSITIONS,
    WITH_PROCESS,
    Attempt,
    Event,
    Job,
    JobExists,
    JobNotFound,
    Measurement,
    Phase,
    State,
    StoredCheckpoint,
)
from lepton_training.models import DiscardedCheckpointRow, EventRow, JobRow, UsageRow

_TIMES = ("create_time", "start_time", "end_time", "queue_time", "not_before")
_ATTEMPT_TIMES = ("start_time", "end_time")
_HALF_LIFE_SECONDS = 24 * 3600.0


class SqlJobs:
    """``JobRepository`` over SQLAlchemy."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, job: Job) -> Job:
        def insert(session: Session) -> Job:
            if job.request_id:
                earlier = session.scalar(
                    select(JobRow).where(
                        JobRow.workspace == job.workspace, JobRow.request_id == job.request_id
                    )
                )
                if earlier is not None:
                    return _job(earlier)
            if session.get(JobRow, (job.workspace, job.id)) is not None:
                raise JobExists(f"{job.name} exists; choose another id", job=job.name)
            row = JobRow(
                workspace=job.workspace,
                id=job.id,
                request_id=job.request_id or None,
                create_time=job.create_time,
                last_sequence=0,
            )
            _store(row, job)
            session.add(row)
            if session.get(UsageRow, job.workspace) is None:
                session.add(
                    UsageRow(workspace=job.workspace, core_seconds=0.0, time=job.create_time)
                )
            session.flush()
            _append(session, row, {"job": _record(job)})
            return job

        try:
            return await self._database.write(insert)
        except IntegrityError:  # another call was first with this id or request id
            return await self._database.write(insert)

    async def get(self, workspace: str, job_id: str) -> Job:
        def read(session: Session) -> Job:
            return _job(_row(session, workspace, job_id))

        return await self._database.read(read)

    async def list_newest(
        self, workspace: str, limit: int, before: tuple[datetime, str] | None
    ) -> list[Job]:
        def read(session: Session) -> list[Job]:
            query = select(JobRow).where(JobRow.workspace == workspace)
            key = tuple_(JobRow.create_time, JobRow.id)
            if before is not None:
                query = query.where(key < before)
            query = query.order_by(JobRow.create_time.desc(), JobRow.id.desc()).limit(limit)
            return [_job(row) for row in session.scalars(query)]

        return await self._database.read(read)

    async def change(
        self,
        job: Job,
        expected: Collection[State],
        changes: dict[str, Any],
        measurements: Iterable[Measurement] = (),
    ) -> Job | None:
        numbers = list(measurements)

        def apply(session: Session) -> Job | None:
            row = session.get(JobRow, (job.workspace, job.id), with_for_update=True)
            if row is None:
                return None
            current = _job(row)
            if current.state not in expected:
                return None
            updated = dataclasses.replace(current, **changes)
            if updated.state != current.state and updated.state not in TRANSITIONS[current.state]:
                raise ValueError(f"{current.state} cannot become {updated.state}")
            _discard(session, current, updated.checkpoint)
            _store(row, updated)
            _count(session, updated, updated.run_seconds - current.run_seconds)
            for number in numbers:
                _append(session, row, {"measurement": dataclasses.asdict(number)})
            if (updated.state, updated.phase) != (current.state, current.phase):
                _append(session, row, {"job": _record(updated)})
            return updated

        return await self._database.write(apply)

    async def queued(self) -> list[Job]:
        return await self._in_order(select(JobRow).where(JobRow.state == State.QUEUED))

    async def active(self, node: str) -> list[Job]:
        return await self._in_order(
            select(JobRow).where(JobRow.state.in_(WITH_PROCESS), JobRow.node == node)
        )

    async def running(self) -> list[Job]:
        return await self._in_order(select(JobRow).where(JobRow.state.in_(WITH_PROCESS)))

    async def usage(self, now: datetime) -> dict[str, float]:
        def read(session: Session) -> dict[str, float]:
            rows = session.scalars(select(UsageRow))
            return {row.workspace: _faded(row, now) for row in rows}

        return await self._database.read(read)

    async def _in_order(self, query: Any) -> list[Job]:
        def read(session: Session) -> list[Job]:
            return [
                _job(row) for row in session.scalars(query.order_by(JobRow.create_time, JobRow.id))
            ]

        return await self._database.read(read)

    async def events(self, workspace: str, job_id: str, after: int, limit: int) -> list[Event]:
        def read(session: Session) -> list[Event]:
            rows = session.scalars(
                select(EventRow)
                .where(
                    EventRow.workspace == workspace,
                    EventRow.job_id == job_id,
                    EventRow.sequence > after,
                )
                .order_by(EventRow.sequence)
                .limit(limit)
            )
            return [Event(row.sequence, row.time, _content(workspace, row)) for row in rows]

        return await self._database.read(read)

    async def delete(self, job: Job) -> bool:
        def remove(session: Session) -> bool:
            row = session.get(JobRow, (job.workspace, job.id), with_for_update=True)
            if row is None or row.create_time != job.create_time or not _job(row).state.ended:
                return False
            key = (EventRow.workspace == job.workspace, EventRow.job_id == job.id)
            _discard(session, _job(row), None)
            session.execute(delete(EventRow).where(*key))
            session.delete(row)
            return True

        return await self._database.write(remove)

    async def discarded(self, limit: int) -> list[tuple[str, str]]:
        def read(session: Session) -> list[tuple[str, str]]:
            query = select(DiscardedCheckpointRow).limit(limit)
            return [(row.workspace, row.artifact) for row in session.scalars(query)]

        return await self._database.read(read)

    async def forget_discarded(self, workspace: str, artifact: str) -> None:
        def remove(session: Session) -> None:
            session.execute(
                delete(DiscardedCheckpointRow).where(
                    DiscardedCheckpointRow.workspace == workspace,
                    DiscardedCheckpointRow.artifact == artifact,
                )
            )

        await self._database.write(remove)


def _row(session: Session, workspace: str, job_id: str) -> JobRow:
    row = session.get(JobRow, (workspace, job_id))
    if row is None:
        raise JobNotFound(f"jobs/{job_id}")
    return row


def _store(row: JobRow, job: Job) -> None:
    row.state, row.node, row.record = job.state, job.node, _record(job)


def _discard(session: Session, job: Job, kept: StoredCheckpoint | None) -> None:
    """Writes down that the copy which ``job`` has is to be deleted, unless it is ``kept``."""
    if job.checkpoint is None or (kept and kept.artifact == job.checkpoint.artifact):
        return
    session.merge(DiscardedCheckpointRow(workspace=job.workspace, artifact=job.checkpoint.artifact))


def _count(session: Session, job: Job, seconds: float) -> None:
    """Adds what ``job`` has run to its workspace's usage."""
    if seconds <= 0:
        return
    row = session.get(UsageRow, job.workspace, with_for_update=True)
    if row is None:  # its jobs were all deleted when the table was made
        return
    now = datetime.now(UTC)
    row.core_seconds = _faded(row, now) + seconds * job.cpus
    row.time = now


def _faded(row: UsageRow, now: datetime) -> float:
    age = max(0.0, (now - row.time).total_seconds())
    return float(row.core_seconds * 0.5 ** (age / _HALF_LIFE_SECONDS))


def _append(session: Session, row: JobRow, content: dict[str, Any]) -> None:
    row.last_sequence += 1
    session.add(
        EventRow(
            workspace=row.workspace,
            job_id=row.id,
            sequence=row.last_sequence,
            time=datetime.now(UTC),
            content=content,
        )
    )


def _record(job: Job) -> dict[str, Any]:
    record = dataclasses.asdict(job)
    del record["workspace"]
    for name in _TIMES:
        if record[name] is not None:
            record[name] = record[name].isoformat()
    for attempt in record["history"]:
        for name in _ATTEMPT_TIMES:
            if attempt[name] is not None:
                attempt[name] = attempt[name].isoformat()
    if job.checkpoint is not None:
        record["checkpoint"]["time"] = job.checkpoint.time.isoformat()
    return record


def _job(row: JobRow) -> Job:
    return _from_record(row.workspace, row.record)


def _from_record(workspace: str, record: dict[str, Any]) -> Job:
    values = dict(record)
    for name in _TIMES:
        if values.get(name) is not None:
            values[name] = datetime.fromisoformat(values[name])
    values["state"], values["phase"] = State(values["state"]), Phase(values["phase"])
    values["epoch_seconds"] = tuple(values["epoch_seconds"])
    # Records of before these were kept lack them.
    for name in ("core_ids", "gpu_ids"):
        values[name] = tuple(values.get(name, ()))
    values["history"] = tuple(_attempt(one) for one in values.get("history", ()))
    if values.get("checkpoint") is not None:
        stored = values["checkpoint"]
        time = datetime.fromisoformat(stored["time"])
        values["checkpoint"] = StoredCheckpoint(**{**stored, "time": time})
    return Job(workspace=workspace, **values)


def _attempt(record: dict[str, Any]) -> Attempt:
    times = {
        name: None if record[name] is None else datetime.fromisoformat(record[name])
        for name in _ATTEMPT_TIMES
    }
    return Attempt(**{**record, **times})


def _content(workspace: str, row: EventRow) -> Job | Measurement:
    if "job" in row.content:
        return _from_record(workspace, row.content["job"])
    return Measurement(**row.content["measurement"])
