"""The protocol's model repository: a workspace's endpoints, and its models in the registry.

To load a name is to serve the endpoint of that name, with aliases resolved anew; where there is
none, to make one that serves the model of that name in its newest version. To unload it is to
keep the endpoint on record without serving it. What was asked is on record before it is brought
about, so that other instances follow and a restart changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lepton_inference.endpoint import EndpointExists, EndpointNotFound, Wanted
from lepton_inference.endpoints import SETTINGS, EndpointManager
from lepton_inference.ports import Registry
from lepton_inference.settings import ModelSettings
from lepton_mesh.caller import Caller
from lepton_mesh.errors import NotFound
from lepton_mesh.resources import check_id

Change = Callable[[ModelSettings], ModelSettings]
"""What a caller wants otherwise than it is."""


@dataclass(frozen=True, slots=True)
class Loadable:
    """A model of the registry that no endpoint serves."""

    name: str
    version: str
    """Its newest."""


class Repository:
    """Loads and unloads. The current caller is who asks, since the registry is asked for them."""

    def __init__(self, manager: EndpointManager, registry: Registry) -> None:
        self._manager = manager
        self._registry = registry

    async def load(self, caller: Caller, name: str, change: Change | None = None) -> None:
        """Serves ``name``; returns once it answers requests here.

        Args:
            caller: Who asks.
            name: An endpoint's id, or a model's where there is no such endpoint.
            change: What is to be set from now on; None for nothing.

        Raises:
            EndpointNotFound: There is neither.
            EndpointInvalid: ``change`` goes beyond what may be set.
            LeptonError: Why it cannot be served; what passes is tried again meanwhile.
        """
        check_id(name, "model_name")
        try:
            await self._manager.get(caller.workspace, name)
        except EndpointNotFound:
            try:
                await self._serve_model(caller, name, change)
            except EndpointExists:
                await self._load_endpoint(caller.workspace, name, change)  # others were quicker
        else:
            await self._load_endpoint(caller.workspace, name, change)

    async def unload(self, caller: Caller, name: str, *, dependents: bool = False) -> None:
        """Serves ``name`` no more; what it was sent before is answered, and its memory freed.

        Args:
            caller: Who asks.
            name: An endpoint's id.
            dependents: Whether ensembles that ask it are unloaded before it.

        Raises:
            EndpointNotFound: There is no such endpoint.
            EndpointInUse: Ensembles ask it, and may not be unloaded.
        """
        await self._manager.get(caller.workspace, name)
        for user in await self._manager.dependents(caller.workspace, name) if dependents else ():
            await self.unload(caller, user, dependents=True)
        await self._manager.update(
            caller.workspace,
            name,
            etag="",
            wanted=Wanted(unloaded=True),
            fields={"unloaded"},
            wait=True,
        )

    async def loadable(self, served: set[str]) -> list[Loadable]:
        """The current caller's models, in order of name, but those whose names are ``served``."""
        newest = await self._registry.newest()
        return [Loadable(name, newest[name]) for name in sorted(newest.keys() - served)]

    async def _load_endpoint(self, workspace: str, name: str, change: Change | None) -> None:
        found = await self._manager.get(workspace, name)
        fields = {"unloaded"}
        settings = found.settings
        if change is not None:
            settings = change(settings)
            fields |= SETTINGS
        await self._manager.update(
            workspace,
            name,
            etag="",
            wanted=Wanted(settings=settings),
            fields=fields,
            wait=True,
        )

    async def _serve_model(self, caller: Caller, name: str, change: Change | None) -> None:
        """Makes an endpoint ``name`` that serves the newest version of the model ``name``."""
        settings = ModelSettings() if change is None else change(ModelSettings())
        wanted = Wanted(targets=((f"models/{name}/versions/latest", 1),), settings=settings)
        try:
            await self._manager.create(
                workspace=caller.workspace,
                endpoint_id=name,
                creator=caller.subject,
                wanted=wanted,
                wait=True,
            )
        except NotFound as error:
            if error.reason != "MODEL_NOT_FOUND":
                raise
            raise EndpointNotFound(
                f"there is no endpoint '{name}', and no model '{name}' to make one of; "
                "`lepton endpoint list` and `lepton model list` show those that are",
                name=f"endpoints/{name}",
            ) from None
