"""What may be done with endpoints. Callers' rights are checked before; workspaces separate them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lepton_inference.changes import Changes
from lepton_inference.deployer import Deployer
from lepton_inference.endpoint import (
    Endpoint,
    EndpointChanged,
    State,
    Target,
    Wanted,
    check_notes,
    check_targets,
)
from lepton_inference.ports import Endpoints, Registry
from lepton_inference.settings import ModelSettings, check_model_settings

_POLL_SECONDS = 10.0
"""How long a watcher waits for a change made by another instance."""
_NOTES = frozenset({"description", "labels"})
"""Fields that do not change what is served."""
_SETTINGS = frozenset(field.name for field in dataclasses.fields(ModelSettings))


class EndpointManager:
    """Creates, reads, changes and deletes endpoints."""

    def __init__(
        self, endpoints: Endpoints, registry: Registry, deployer: Deployer, changes: Changes
    ) -> None:
        self._endpoints = endpoints
        self._registry = registry
        self._deployer = deployer
        self._changes = changes

    async def create(
        self,
        *,
        workspace: str,
        endpoint_id: str,
        creator: str,
        wanted: Wanted,
    ) -> Endpoint:
        """Writes the endpoint and begins to deploy it.

        Raises:
            EndpointExists, EndpointInvalid: See there.
            LeptonError: What the registry says of a target.
        """
        check_notes(wanted.description, wanted.labels)
        check_targets(wanted.targets)
        check_model_settings(wanted.settings)
        now = datetime.now(UTC)
        endpoint = Endpoint(
            workspace=workspace,
            id=endpoint_id,
            targets=await self._targets(wanted),
            settings=wanted.settings,
            state=State.DEPLOYING,
            creator=creator,
            created=now,
            updated=now,
            description=wanted.description,
            labels=wanted.labels,
        )
        await self._endpoints.add(endpoint)
        self._deployer.deploy(endpoint)
        return endpoint

    async def get(self, workspace: str, endpoint_id: str) -> Endpoint:
        """Raises EndpointNotFound."""
        return await self._endpoints.get(workspace, endpoint_id)

    async def page(self, workspace: str, after: str, limit: int) -> list[Endpoint]:
        """In order of id, those after ``after``."""
        return await self._endpoints.page(workspace, after, limit)

    async def update(
        self,
        workspace: str,
        endpoint_id: str,
        *,
        etag: str,
        wanted: Wanted,
        fields: Collection[str],
    ) -> Endpoint:
        """Changes some fields, and deploys anew if what is served changes.

        Args:
            workspace: The caller's.
            endpoint_id: Which endpoint.
            etag: Of the endpoint that the caller has seen; empty for any.
            wanted: Where the new values are.
            fields: The names, of the API's message, of those that change.

        Raises:
            EndpointNotFound, EndpointInvalid: See there.
            EndpointChanged: ``etag`` is given and not current.
        """
        check_notes(wanted.description, wanted.labels)
        await self._endpoints.get(workspace, endpoint_id)
        values: dict[str, Any] = {"description": wanted.description, "labels": wanted.labels}
        if "targets" in fields:
            check_targets(wanted.targets)
            values["targets"] = await self._targets(wanted)
        redeploy = not _NOTES.issuperset(fields)

        def change(current: Endpoint) -> Endpoint:
            if etag and etag != str(current.revision):
                raise EndpointChanged(
                    f"'{current.name}' was changed meanwhile; read it again, then update",
                    name=current.name,
                )
            changed = replace(
                current,
                settings=replace(
                    current.settings,
                    **{
                        part: getattr(wanted.settings, part)
                        for part in _SETTINGS.intersection(fields)
                    },
                ),
                updated=datetime.now(UTC),
                revision=current.revision + 1,
                **{name: value for name, value in values.items() if name in fields},
            )
            check_model_settings(changed.settings)
            if not redeploy:
                return changed
            return replace(
                changed,
                generation=current.generation + 1,
                state=State.DEPLOYING,
                failure_reason="",
                failure_message="",
            )

        endpoint = await self._endpoints.change(workspace, endpoint_id, change)
        if redeploy:
            self._deployer.deploy(endpoint)
        self._changes.notify(workspace, endpoint_id)
        return endpoint

    async def delete(self, workspace: str, endpoint_id: str) -> None:
        """Removes the record, then what is served; raises EndpointNotFound."""
        await self._endpoints.delete(workspace, endpoint_id)
        await self._deployer.remove(workspace, endpoint_id)
        self._changes.notify(workspace, endpoint_id)

    async def watch(
        self, workspace: str, endpoint_id: str, stop: asyncio.Event
    ) -> AsyncIterator[Endpoint]:
        """The endpoint as it is, then at each change, until ``stop``.

        Raises EndpointNotFound, also once it is deleted.
        """
        seen = 0
        while not stop.is_set():
            changed = self._changes.waiter(workspace, endpoint_id)
            try:
                endpoint = await self._endpoints.get(workspace, endpoint_id)
                if endpoint.revision != seen:
                    seen = endpoint.revision
                    yield endpoint
                await _either(changed, stop)
            finally:
                self._changes.forget(workspace, endpoint_id, changed)

    async def _targets(self, wanted: Wanted) -> tuple[Target, ...]:
        return tuple(
            [
                Target(name, weight or 1, await self._registry.resolve(name))
                for name, weight in wanted.targets
            ]
        )


async def _either(changed: asyncio.Event, stop: asyncio.Event) -> None:
    """Returns when either is set, or after a while."""
    waiting = [asyncio.create_task(event.wait()) for event in (changed, stop)]
    try:
        await asyncio.wait(waiting, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
