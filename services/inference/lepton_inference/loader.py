"""Loads model versions for endpoints: fetched, checked by digest, kept on disk, warmed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from lepton_inference.endpoint import Endpoint, ModelVersion
from lepton_inference.interruption import Interruption
from lepton_inference.load_slots import LoadSlots
from lepton_inference.model import LoadedModel, ModelSource, Session
from lepton_inference.ports import Artifacts, Models
from lepton_inference.serving import Served
from lepton_inference.settings import ModelSettings
from lepton_inference.shadow import quietly, shadow_settings

LoadSession = Callable[[Path, ModelSettings, Interruption, str], Session]
"""Loads and warms the model in a file, to be served so, for the endpoint of that name. Blocks; an
interruption ends what may be ended of it, and it raises."""

_LOADS_AT_ONCE = 3
_LOADS_OF_A_WORKSPACE = 2
"""So that models of one workspace which do not end leave a load to the others. The second only
while no other workspace waits for its first."""


class ModelLoader:
    """Made and used on the event loop that serves.

    Args:
        artifacts: Where models come from.
        cache: Where they are kept on this machine.
        load: Makes a session of a file.
        platform: What sessions are, in the protocol's words.
    """

    def __init__(
        self, artifacts: Artifacts, cache: Models, load: LoadSession, platform: str
    ) -> None:
        self._artifacts = artifacts
        self._cache = cache
        self._load = load
        self._platform = platform
        # A load takes all cores for its measurements; many at once would measure each other.
        self._slots = LoadSlots(_LOADS_AT_ONCE, _LOADS_OF_A_WORKSPACE)
        self._doing: dict[tuple[str, str], str] = {}
        """For which endpoint what is done now."""

    async def load(
        self, endpoint: Endpoint, version: ModelVersion, *, shadow: bool = False
    ) -> LoadedModel:
        """The version, ready to be asked as the endpoint's settings say.

        Args:
            endpoint: Whose model it becomes.
            version: Which.
            shadow: Whether it yields to others, from loading on, and has a shadow's settings.

        Raises:
            LeptonError: What reading it, its digest or loading it comes to.
        """
        settings = shadow_settings(endpoint.settings) if shadow else endpoint.settings
        try:
            self._does(endpoint, f"fetching {version.name}")
            content = self._artifacts.read(endpoint.workspace, version.artifact)
            path = await self._cache.get(version.sha256, version.artifact, content)
            self._does(endpoint, f"waiting to try {version.name} until fewer models are tried")
            await self._slots.take(endpoint.workspace)
            self._does(endpoint, f"trying {version.name}: loading it, and running samples")
            session = await self._session(endpoint, path, settings, shadow=shadow)
        finally:
            self._doing.pop((endpoint.workspace, endpoint.id), None)
        source = ModelSource(
            endpoint.id, version.number, self._platform, version.sha256, version.class_names
        )
        return LoadedModel(source, session, settings, background=shadow)

    def activity(self, endpoint: Endpoint) -> str:
        """What is being done to load a model of the endpoint; "" for nothing."""
        return self._doing.get((endpoint.workspace, endpoint.id), "")

    def _does(self, endpoint: Endpoint, what: str) -> None:
        self._doing[endpoint.workspace, endpoint.id] = what

    async def _session(
        self, endpoint: Endpoint, path: Path, settings: ModelSettings, *, shadow: bool
    ) -> Session:
        run = quietly if shadow else asyncio.to_thread
        unwanted = Interruption()
        name = f"{endpoint.workspace}/{endpoint.id}"
        loading = asyncio.ensure_future(run(self._load, path, settings, unwanted, name))
        loading.add_done_callback(lambda _: self._slots.give(endpoint.workspace))
        try:
            return await asyncio.shield(loading)
        except asyncio.CancelledError:
            # Its thread goes on until it finds its trial ended, and counts as a load until then.
            loading.add_done_callback(_close_unwanted)
            unwanted.interrupt()
            raise

    async def forget_unused(
        self,
        endpoints: Callable[[], Awaitable[Iterable[Endpoint]]],
        serving: Callable[[], Iterable[Served]],
    ) -> None:
        """Removes from disk what is neither wanted nor served.

        Args:
            endpoints: Finds all there are.
            serving: Finds what answers now, which need not be what is wanted; a model in a process
                of its own is read again when that process is lost.
        """

        async def wanted() -> set[str]:
            found = set()
            for endpoint in await endpoints():
                found |= {target.version.sha256 for target in endpoint.targets}
                if endpoint.shadow is not None:
                    found.add(endpoint.shadow.version.sha256)
            for served in serving():
                found |= {model.source.digest for model in (*served.loaded, *served.draining)}
            return found

        await self._cache.keep(wanted)


def _close_unwanted(loading: asyncio.Future[Session]) -> None:
    """Gives back what was loaded for nobody."""
    if not loading.cancelled() and loading.exception() is None:
        # Giving back gigabytes takes a while.
        loading.get_loop().run_in_executor(None, loading.result().close)


def loaded_already(
    now: Served | None, endpoint: Endpoint, version: ModelVersion
) -> LoadedModel | None:
    """The model that answers with that version already, if it is served as is wanted."""
    for model in now.models if now is not None else ():
        if isinstance(model, LoadedModel) and _is(model, version, endpoint.settings):
            return model
    return None


def shadow_already(now: Served | None, endpoint: Endpoint) -> LoadedModel | None:
    """The shadow that runs already, if it is the one that is wanted."""
    if now is None or now.mirror is None or endpoint.shadow is None:
        return None
    model = now.mirror.model
    wanted = shadow_settings(endpoint.settings)
    return model if _is(model, endpoint.shadow.version, wanted) else None


def _is(model: LoadedModel, version: ModelVersion, settings: ModelSettings) -> bool:
    source = model.source
    return (source.version, source.digest, model.settings) == (
        version.number,
        version.sha256,
        settings,
    )
