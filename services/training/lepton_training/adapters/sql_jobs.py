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
    Event,
    Job,
    JobExists,
    JobNotFound,
    Measurement,
    Phase,
    State,
)
from lepton_training.models import EventRow, JobRow

_TIMES = ("create_time", "start_time", "end_time")


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
            _store(row, updated)
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
            select(JobRow).where(
                JobRow.state.in_([State.RUNNING, State.CANCELLING]), JobRow.node == node
            )
        )

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

    async def delete(self, workspace: str, job_id: str) -> None:
        def remove(session: Session) -> None:
            session.execute(
                delete(EventRow).where(EventRow.workspace == workspace, EventRow.job_id == job_id)
            )
            session.execute(
                delete(JobRow).where(JobRow.workspace == workspace, JobRow.id == job_id)
            )

        await self._database.write(remove)


def _row(session: Session, workspace: str, job_id: str) -> JobRow:
    row = session.get(JobRow, (workspace, job_id))
    if row is None:
        raise JobNotFound(f"jobs/{job_id}")
    return row


def _store(row: JobRow, job: Job) -> None:
    row.state, row.node, row.record = job.state, job.node, _record(job)


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
    return record


def _job(row: JobRow) -> Job:
    return _from_record(row.workspace, row.record)


def _from_record(workspace: str, record: dict[str, Any]) -> Job:
    values = dict(record)
    for name in _TIMES:
        if values[name] is not None:
            values[name] = datetime.fromisoformat(values[name])
    values["state"], values["phase"] = State(values["state"]), Phase(values["phase"])
    values["epoch_seconds"] = tuple(values["epoch_seconds"])
    return Job(workspace=workspace, **values)


def _content(workspace: str, row: EventRow) -> Job | Measurement:
    if "job" in row.content:
        return _from_record(workspace, row.content["job"])
    return Measurement(**row.content["measurement"])
