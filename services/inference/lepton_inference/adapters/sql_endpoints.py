"""Endpoints in the service's own database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lepton_inference.endpoint import (
    Endpoint,
    EndpointExists,
    EndpointNotFound,
    ModelVersion,
    Shadow,
    State,
    Target,
)
from lepton_inference.ensemble import Ensemble
from lepton_inference.models import EndpointRow
from lepton_inference.settings import ModelSettings
from lepton_mesh.database import Database

_SETTINGS = TypeAdapter(ModelSettings)
_ENSEMBLE = TypeAdapter(Ensemble | None)


class SqlEndpoints:
    """See :class:`lepton_inference.ports.Endpoints`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, endpoint: Endpoint) -> None:
        """See the port."""

        def add(session: Session) -> None:
            session.add(_fill(EndpointRow(), endpoint))

        try:
            await self._database.write(add)
        except IntegrityError:
            raise EndpointExists(
                f"'{endpoint.name}' exists already; update it, or choose another name",
                name=endpoint.name,
            ) from None

    async def get(self, workspace: str, endpoint_id: str) -> Endpoint:
        """See the port."""
        return await self._database.read(
            lambda session: _endpoint(_find(session, workspace, endpoint_id))
        )

    async def page(self, workspace: str, after: str, limit: int) -> list[Endpoint]:
        """See the port."""
        query = (
            select(EndpointRow)
            .where(EndpointRow.workspace == workspace, EndpointRow.id > after)
            .order_by(EndpointRow.id)
            .limit(limit)
        )
        return await self._database.read(
            lambda session: [_endpoint(row) for row in session.scalars(query)]
        )

    async def all(self) -> list[Endpoint]:
        """See the port."""
        query = select(EndpointRow).order_by(EndpointRow.workspace, EndpointRow.id)
        return await self._database.read(
            lambda session: [_endpoint(row) for row in session.scalars(query)]
        )

    async def change(
        self, workspace: str, endpoint_id: str, change: Callable[[Endpoint], Endpoint]
    ) -> Endpoint:
        """See the port."""

        def replace(session: Session) -> Endpoint:
            row = _find(session, workspace, endpoint_id)
            changed = change(_endpoint(row))
            _fill(row, changed)
            return changed

        return await self._database.write(replace)

    async def delete(self, workspace: str, endpoint_id: str) -> None:
        """See the port."""
        await self._database.write(
            lambda session: session.delete(_find(session, workspace, endpoint_id))
        )


def _stored(version: ModelVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "artifact": version.artifact,
        "sha256": version.sha256,
        "class_names": list(version.class_names),
    }


def _version(stored: dict[str, Any]) -> ModelVersion:
    names = stored.get("class_names", ())  # rows of before had none
    return ModelVersion(stored["name"], stored["artifact"], stored["sha256"], tuple(names))


def _shadow(stored: dict[str, Any] | None) -> Shadow | None:
    if stored is None:
        return None
    return Shadow(stored["wanted"], stored["percent"], stored["tolerance"], _version(stored))


def _find(session: Session, workspace: str, endpoint_id: str) -> EndpointRow:
    row = session.get(EndpointRow, (workspace, endpoint_id), with_for_update=True)
    if row is None:
        raise EndpointNotFound(
            f"'endpoints/{endpoint_id}' does not exist; `lepton endpoint list` shows those that do",
            name=f"endpoints/{endpoint_id}",
        )
    return row


def _fill(row: EndpointRow, endpoint: Endpoint) -> EndpointRow:
    row.workspace = endpoint.workspace
    row.id = endpoint.id
    row.targets = [
        {
            "wanted": target.wanted,
            "weight": target.weight,
            **_stored(target.version),
        }
        for target in endpoint.targets
    ]
    row.settings = _SETTINGS.dump_python(endpoint.settings, mode="json")
    shadow = endpoint.shadow
    row.shadow = (
        {
            "wanted": shadow.wanted,
            "percent": shadow.percent,
            "tolerance": shadow.tolerance,
            **_stored(shadow.version),
        }
        if shadow is not None
        else None
    )
    row.ensemble = _ENSEMBLE.dump_python(endpoint.ensemble, mode="json")
    row.unloaded = endpoint.unloaded
    row.state = endpoint.state.value
    row.failure_reason = endpoint.failure_reason
    row.failure_message = endpoint.failure_message[:1000]
    row.execution_provider = endpoint.execution_provider
    row.description = endpoint.description
    row.labels = dict(endpoint.labels)
    row.creator = endpoint.creator
    row.created = endpoint.created
    row.updated = endpoint.updated
    row.revision = endpoint.revision
    row.generation = endpoint.generation
    return row


def _endpoint(row: EndpointRow) -> Endpoint:
    return Endpoint(
        workspace=row.workspace,
        id=row.id,
        targets=tuple(
            Target(
                wanted=target["wanted"],
                weight=target["weight"],
                version=_version(target),
            )
            for target in row.targets
        ),
        settings=_SETTINGS.validate_python(row.settings),
        shadow=_shadow(row.shadow),
        ensemble=_ENSEMBLE.validate_python(row.ensemble),
        unloaded=row.unloaded,
        state=State(row.state),
        failure_reason=row.failure_reason,
        failure_message=row.failure_message,
        execution_provider=row.execution_provider,
        description=row.description,
        labels=dict(row.labels),
        creator=row.creator,
        created=row.created,
        updated=row.updated,
        revision=row.revision,
        generation=row.generation,
    )
