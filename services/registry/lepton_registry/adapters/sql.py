"""The records in SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, undefer

from lepton_mesh.database import Database
from lepton_registry.models import ArtifactHoldRow, ModelRow, VersionRow
from lepton_registry.ports import Records
from lepton_registry.records import (
    Hold,
    Lineage,
    Model,
    Phase,
    Signature,
    State,
    Tensor,
    Version,
)

T = TypeVar("T")


class SqlStore:
    """Transactions over the service's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, function: Callable[[Records], T]) -> T:
        return await self._database.read(lambda session: function(SqlRecords(session)))

    async def write(self, function: Callable[[Records], T]) -> T:
        return await self._database.write(lambda session: function(SqlRecords(session, True)))


class SqlRecords:
    """Every aggregate over one session."""

    def __init__(self, session: Session, writes: bool = False) -> None:
        self.models = SqlModels(session, writes)
        self.versions = SqlVersions(session)
        self.holds = SqlHolds(session)


class SqlModels:
    def __init__(self, session: Session, writes: bool) -> None:
        self._session = session
        self._writes = writes

    def get(self, workspace: str, model: str) -> Model | None:
        query = select(ModelRow).where(ModelRow.workspace == workspace, ModelRow.id == model)
        if self._writes:
            # Held until the transaction ends, so that two versions cannot take one number
            # (PostgreSQL; SQLite has one writer anyway).
            query = query.with_for_update()
        row = self._session.scalar(query)
        return _model(row) if row else None

    def add(self, workspace: str, model: Model) -> bool:
        sqlite_used = self._session.get_bind().dialect.name == "sqlite"
        insert = sqlite.insert if sqlite_used else postgresql.insert
        statement = (
            insert(ModelRow)
            .values(workspace=workspace, **_model_values(model))
            .on_conflict_do_nothing()
            .returning(ModelRow.id)
        )
        return self._session.execute(statement).first() is not None

    def replace(self, workspace: str, model: Model) -> None:
        self._session.execute(
            update(ModelRow)
            .where(ModelRow.workspace == workspace, ModelRow.id == model.id)
            .values(**_model_values(model))
        )

    def delete(self, workspace: str, model: str) -> None:
        self._session.execute(
            delete(ModelRow).where(ModelRow.workspace == workspace, ModelRow.id == model)
        )

    def after(self, workspace: str, after: str, limit: int) -> Sequence[Model]:
        query = (
            select(ModelRow)
            .where(ModelRow.workspace == workspace, ModelRow.id > after)
            .order_by(ModelRow.id)
            .limit(limit)
        )
        return [_model(row) for row in self._session.scalars(query)]


class SqlVersions:
    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, workspace: str, model: str, number: int) -> Version | None:
        return self._one(workspace, model, VersionRow.number == number)

    def find_request(self, workspace: str, model: str, request_id: str) -> Version | None:
        return self._one(workspace, model, VersionRow.request_id == request_id)

    def add(self, workspace: str, version: Version) -> None:
        values = {**asdict(version), "workspace": workspace}
        values["state"] = int(version.state)
        values["request_id"] = version.request_id or None
        self._session.add(VersionRow(**values))
        self._session.flush()

    def update(self, workspace: str, version: Version) -> None:
        self._session.execute(
            update(VersionRow)
            .where(
                VersionRow.workspace == workspace,
                VersionRow.model == version.model,
                VersionRow.number == version.number,
            )
            .values(
                description=version.description,
                labels=dict(version.labels),
                state=int(version.state),
                revision=version.revision,
            )
        )

    def before(
        self, workspace: str, model: str, before: int | None, limit: int
    ) -> Sequence[Version]:
        query = (
            select(VersionRow)
            .where(VersionRow.workspace == workspace, VersionRow.model == model)
            .order_by(VersionRow.number.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(VersionRow.number < before)
        return [_version(row, evaluation={}, parity={}) for row in self._session.scalars(query)]

    def _one(self, workspace: str, model: str, which: Any) -> Version | None:
        row = self._session.scalar(
            select(VersionRow)
            .where(VersionRow.workspace == workspace, VersionRow.model == model, which)
            .options(undefer(VersionRow.evaluation), undefer(VersionRow.parity))
        )
        return _version(row, row.evaluation, row.parity) if row else None


class SqlHolds:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, hold: Hold) -> None:
        values = {**asdict(hold), "artifacts": list(hold.artifacts), "phase": int(hold.phase)}
        self._session.add(ArtifactHoldRow(**values))

    def conclude(self, hold_id: str, phase: Phase) -> bool:
        statement = (
            update(ArtifactHoldRow)
            .where(ArtifactHoldRow.id == hold_id, ArtifactHoldRow.phase == int(Phase.REGISTERING))
            .values(phase=int(phase), held=True)
            .returning(ArtifactHoldRow.id)
        )
        return self._session.scalar(statement) is not None

    def delete(self, workspace: str, model: str) -> None:
        self._session.execute(
            update(ArtifactHoldRow)
            .where(
                ArtifactHoldRow.workspace == workspace,
                ArtifactHoldRow.model == model,
                ArtifactHoldRow.phase == int(Phase.KEPT),
            )
            .values(phase=int(Phase.DELETED))
        )

    def release(self, before: datetime) -> None:
        self._session.execute(
            update(ArtifactHoldRow)
            .where(ArtifactHoldRow.phase == int(Phase.REGISTERING), ArtifactHoldRow.since < before)
            .values(phase=int(Phase.RELEASED))
        )

    def unheld(self, limit: int) -> Sequence[Hold]:
        phases = (int(Phase.KEPT), int(Phase.DELETED))
        return self._oldest(limit, ArtifactHoldRow.phase.in_(phases), ~ArtifactHoldRow.held)

    def held(self, hold_id: str) -> None:
        self._session.execute(
            update(ArtifactHoldRow).where(ArtifactHoldRow.id == hold_id).values(held=True)
        )

    def ended(self, limit: int) -> Sequence[Hold]:
        deleted = (ArtifactHoldRow.phase == int(Phase.DELETED)) & ArtifactHoldRow.held
        return self._oldest(limit, (ArtifactHoldRow.phase == int(Phase.RELEASED)) | deleted)

    def forget(self, hold_id: str) -> None:
        self._session.execute(delete(ArtifactHoldRow).where(ArtifactHoldRow.id == hold_id))

    def _oldest(self, limit: int, *which: Any) -> Sequence[Hold]:
        query = select(ArtifactHoldRow).where(*which).order_by(ArtifactHoldRow.since).limit(limit)
        return [_hold(row) for row in self._session.scalars(query)]


def _model_values(model: Model) -> dict[str, Any]:
    return {**asdict(model), "labels": dict(model.labels), "aliases": dict(model.aliases)}


def _model(row: ModelRow) -> Model:
    return Model(
        id=row.id,
        description=row.description,
        labels=row.labels,
        creator=row.creator,
        created=row.created,
        aliases=row.aliases,
        latest=row.latest,
        revision=row.revision,
    )


def _version(row: VersionRow, evaluation: Mapping[str, Any], parity: Mapping[str, Any]) -> Version:
    return Version(
        artifact=row.artifact,
        sha256=row.sha256,
        signature=Signature(
            inputs=tuple(_tensor(tensor) for tensor in row.signature["inputs"]),
            outputs=tuple(_tensor(tensor) for tensor in row.signature["outputs"]),
        ),
        metrics=row.metrics,
        evaluation=evaluation,
        parity=parity,
        lineage=Lineage(**row.lineage),
        class_names=tuple(row.class_names),
        description=row.description,
        labels=row.labels,
        attachments=row.attachments,
        state=State(row.state),
        model=row.model,
        number=row.number,
        size_bytes=row.size_bytes,
        creator=row.creator,
        created=row.created,
        request_id=row.request_id or "",
        revision=row.revision,
    )


def _tensor(values: Mapping[str, Any]) -> Tensor:
    return Tensor(values["name"], values["datatype"], tuple(values["shape"]), values["description"])


def _hold(row: ArtifactHoldRow) -> Hold:
    return Hold(
        id=row.id,
        workspace=row.workspace,
        model=row.model,
        artifacts=tuple(row.artifacts),
        phase=Phase(row.phase),
        since=row.since,
        held=row.held,
    )
