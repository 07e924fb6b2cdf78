"""What may be done with endpoints. Callers' rights are checked before; workspaces separate them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lepton_inference.changes import Changes
from lepton_inference.composition import check_served, check_steps, check_unused, users_of
from lepton_inference.deployer import Deployer, Outcome
from lepton_inference.endpoint import (
    Endpoint,
    EndpointChanged,
    Shadow,
    State,
    Target,
    Wanted,
    WantedShadow,
    check_notes,
    check_shadow,
    check_targets,
)
from lepton_inference.ensemble import check_ensemble
from lepton_inference.ports import Endpoints, Registry
from lepton_inference.settings import ModelSettings
from lepton_inference.shadow import Comparison

_POLL_SECONDS = 10.0
"""How long a watcher waits for a change made by another instance."""
_NOTES = frozenset({"description", "labels"})
"""Fields that do not change what is served."""
SETTINGS = frozenset(field.name for field in dataclasses.fields(ModelSettings))
"""Fields that say how models are served."""


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
        wait: bool = False,
    ) -> Endpoint:
        """Writes the endpoint and begins to deploy it.

        Args:
            workspace: The caller's.
            endpoint_id: The new endpoint's.
            creator: Who makes it.
            wanted: What is to be served.
            wait: Whether to return only once it is.

        Raises:
            EndpointExists, EndpointInvalid, EnsembleInvalid: See there.
            LeptonError: What the registry says of a target; with ``wait`` also why it is not
                served.
        """
        check_notes(wanted.description, wanted.labels)
        if wanted.targets or wanted.ensemble is None:
            check_targets(wanted.targets)
        now = datetime.now(UTC)
        endpoint = Endpoint(
            workspace=workspace,
            id=endpoint_id,
            targets=await self._targets(wanted.targets),
            shadow=await self._shadow(wanted.shadow),
            ensemble=wanted.ensemble,
            settings=wanted.settings,
            unloaded=wanted.unloaded,
            state=State.UNLOADED if wanted.unloaded else State.DEPLOYING,
            creator=creator,
            created=now,
            updated=now,
            description=wanted.description,
            labels=wanted.labels,
        )
        check_served(endpoint)
        await self._check_steps(endpoint)
        await self._endpoints.add(endpoint)
        outcome = self._deployer.deploy(endpoint)
        if wait:
            await self._settled(endpoint, outcome)
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
        wait: bool = False,
    ) -> Endpoint:
        """Changes some fields, and deploys anew if what is served changes.

        One that is to be loaded has its aliases resolved anew, loaded or not.

        Args:
            workspace: The caller's.
            endpoint_id: Which endpoint.
            etag: Of the endpoint that the caller has seen; empty for any.
            wanted: Where the new values are.
            fields: The names, of the API's message, of those that change.
            wait: Whether to return only once what is wanted is served.

        Raises:
            EndpointNotFound, EndpointInvalid, EnsembleInvalid: See there.
            EndpointInUse: It is to be unloaded, and an ensemble asks it.
            EndpointChanged: ``etag`` is given and not current, or somebody else changed it while
                this was waiting.
            LeptonError: What the registry says of a target; with ``wait`` also why what is wanted
                is not served.
        """
        check_notes(wanted.description, wanted.labels)
        found = await self._endpoints.get(workspace, endpoint_id)
        values: dict[str, Any] = {
            "ensemble": wanted.ensemble,
            "unloaded": wanted.unloaded,
            "description": wanted.description,
            "labels": wanted.labels,
        }
        if "ensemble" in fields and wanted.ensemble is not None:
            check_ensemble(wanted.ensemble)
            await self._check_steps(replace(found, ensemble=wanted.ensemble))
        if "unloaded" in fields and wanted.unloaded:
            await check_unused(self._endpoints, workspace, endpoint_id, loaded=True)
        if "shadow" in fields:
            values["shadow"] = await self._shadow(wanted.shadow)
        if "targets" in fields:
            if wanted.targets:
                check_targets(wanted.targets)
            values["targets"] = await self._targets(wanted.targets)
        elif "unloaded" in fields and not wanted.unloaded:
            values["targets"] = await self._targets(_named(found))
            fields = {"targets", *fields}
            if found.shadow is not None and "shadow" not in fields:
                version = await self._registry.resolve(found.shadow.wanted)
                values["shadow"] = replace(found.shadow, version=version)
                fields = {"shadow", *fields}
        redeploy = not _NOTES.issuperset(fields)

        def change(current: Endpoint) -> Endpoint:
            reloads = "targets" in values and not wanted.targets
            if (etag and etag != str(current.revision)) or (
                reloads and _wants(current) != _wants(found)
            ):
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
                        for part in SETTINGS.intersection(fields)
                    },
                ),
                updated=datetime.now(UTC),
                revision=current.revision + 1,
                **{name: value for name, value in values.items() if name in fields},
            )
            check_served(changed)
            if not redeploy:
                return changed
            return replace(
                changed,
                generation=current.generation + 1,
                state=State.UNLOADED if changed.unloaded else State.DEPLOYING,
                failure_reason="",
                failure_message="",
            )

        endpoint = await self._endpoints.change(workspace, endpoint_id, change)
        outcome = self._deployer.deploy(endpoint) if redeploy else None
        self._changes.notify(workspace, endpoint_id)
        if wait and outcome is not None:
            await self._settled(endpoint, outcome)
        return endpoint

    async def dependents(self, workspace: str, endpoint_id: str) -> list[str]:
        """The ids of the ensembles that ask the endpoint and are not unloaded."""
        return await users_of(self._endpoints, workspace, endpoint_id, loaded=True)

    async def delete(self, workspace: str, endpoint_id: str) -> None:
        """Removes the record, then what is served.

        Raises:
            EndpointNotFound: See there.
            EndpointInUse: It is a step of an ensemble.
        """
        await self._endpoints.get(workspace, endpoint_id)
        await check_unused(self._endpoints, workspace, endpoint_id)
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
        with self._changes.watch(workspace, endpoint_id) as changed:
            while not stop.is_set():
                changed.clear()
                endpoint = await self._endpoints.get(workspace, endpoint_id)
                if endpoint.revision != seen:
                    seen = endpoint.revision
                    yield endpoint
                await _either(changed, stop)

    async def _check_steps(self, endpoint: Endpoint) -> None:
        """Raises EnsembleInvalid for an ensemble of what is not there or does not fit."""
        if endpoint.ensemble is not None:
            await check_steps(self._endpoints, endpoint)
            self._deployer.check_ensemble(endpoint, endpoint.ensemble)

    def comparison(self, endpoint: Endpoint) -> Comparison | None:
        """What the endpoint's shadow was found to answer here; None where none runs."""
        return self._deployer.comparison(endpoint)

    def activity(self, endpoint: Endpoint) -> str:
        """What is being done here to serve the endpoint; "" for nothing."""
        return self._deployer.activity(endpoint)

    async def _shadow(self, wanted: WantedShadow | None) -> Shadow | None:
        if wanted is None:
            return None
        check_shadow(wanted)
        version = await self._registry.resolve(wanted.version)
        return Shadow(wanted.version, wanted.percent, wanted.tolerance, version)

    async def _settled(self, endpoint: Endpoint, outcome: Outcome) -> None:
        """Returns once the endpoint is as wanted here, loaded or unloaded.

        Where somebody else changes it meanwhile, what they want is waited for.

        Raises:
            EndpointChanged: It was deleted, or they want the contrary.
            LeptonError: What prevents it.
        """
        key = endpoint.workspace, endpoint.id
        await asyncio.wait((outcome,))
        while outcome.cancelled():
            newer = self._deployer.outcome(*key)
            if (
                newer in (None, outcome)
                or (await self._endpoints.get(*key)).unloaded != endpoint.unloaded
            ):
                raise EndpointChanged(
                    f"'{endpoint.name}' was changed or deleted meanwhile; read it, then try again",
                    name=endpoint.name,
                )
            outcome = newer
            await asyncio.wait((outcome,))
        failure = outcome.result()
        if failure is not None:
            raise failure

    async def _targets(self, named: Iterable[tuple[str, int]]) -> tuple[Target, ...]:
        return tuple(
            [
                Target(name, weight or 1, await self._registry.resolve(name))
                for name, weight in named
            ]
        )


def _named(endpoint: Endpoint) -> tuple[tuple[str, int], ...]:
    """An endpoint's targets as the user named them."""
    return tuple((target.wanted, target.weight) for target in endpoint.targets)


def _wants(endpoint: Endpoint) -> tuple[object, ...]:
    """What of an endpoint is resolved anew when it is loaded."""
    return _named(endpoint), endpoint.shadow and endpoint.shadow.wanted


async def _either(changed: asyncio.Event, stop: asyncio.Event) -> None:
    """Returns when either is set, or after a while."""
    waiting = [asyncio.create_task(event.wait()) for event in (changed, stop)]
    try:
        await asyncio.wait(waiting, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
