"""What may be done with endpoints. Callers' rights are checked before; workspaces separate them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from lepton_inference.batcher import BatchingSettings
from lepton_inference.changes import Changes
from lepton_inference.deployer import Deployer
from lepton_inference.endpoint import (
    Endpoint,
    EndpointChanged,
    State,
    Target,
    check_notes,
    check_targets,
)
from lepton_inference.ports import Endpoints, Registry

_POLL_SECONDS = 10.0
"""How long a watcher waits for a change made by another instance."""


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
        targets: Sequence[tuple[str, int]],
        batching: BatchingSettings,
        description: str,
        labels: dict[str, str],
    ) -> Endpoint:
        """Writes the endpoint and begins to deploy it.

        Args:
            targets: (version or alias in the registry, weight) pairs.

        Raises:
            EndpointExists, EndpointInvalid: See there.
            LeptonError: What the registry says of a target.
        """
        check_notes(description, labels)
        now = datetime.now(UTC)
        endpoint = Endpoint(
            workspace=workspace,
            id=endpoint_id,
            targets=await self._resolve(targets),
            batching=batching,
            state=State.DEPLOYING,
            creator=creator,
            created=now,
            updated=now,
            description=description,
            labels=labels,
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
        targets: Sequence[tuple[str, int]] | None,
        batching: BatchingSettings | None,
        description: str | None,
        labels: dict[str, str] | None,
    ) -> Endpoint:
        """Changes what is not None, and deploys anew if what is served changes.

        Raises:
            EndpointNotFound, EndpointInvalid: See there.
            EndpointChanged: ``etag`` is given and not current.
        """
        check_notes(description or "", labels or {})
        await self._endpoints.get(workspace, endpoint_id)
        resolved = None if targets is None else await self._resolve(targets)
        redeploy = resolved is not None or batching is not None

        def change(current: Endpoint) -> Endpoint:
            if etag and etag != str(current.revision):
                raise EndpointChanged(
                    f"'{current.name}' was changed meanwhile; read it again, then update",
                    name=current.name,
                )
            changed = replace(
                current,
                targets=current.targets if resolved is None else resolved,
                batching=current.batching if batching is None else batching,
                description=current.description if description is None else description,
                labels=current.labels if labels is None else labels,
                updated=datetime.now(UTC),
                revision=current.revision + 1,
            )
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

    async def _resolve(self, targets: Sequence[tuple[str, int]]) -> tuple[Target, ...]:
        check_targets(list(targets))
        return tuple(
            [
                Target(wanted, weight or 1, await self._registry.resolve(wanted))
                for wanted, weight in targets
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
