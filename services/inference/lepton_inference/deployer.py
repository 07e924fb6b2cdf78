"""Brings about what endpoints want: fetches, checks, loads and warms models, then swaps them in.

One task per endpoint at a time. The models that answer now go on answering until their
successors are warm; a deployment that fails leaves them. What is loaded and still wanted as it
is, is kept. A failure that may pass (storage is starting, the network is gone) is tried again
for as long as the endpoint exists.

Instances share one record. Each looks at it every few seconds and brings about what another
has changed. READY on record means that at least the instance which wrote it serves the
endpoint; one that starts, or fails to follow, writes that instead.

An endpoint that is unloaded is brought about as well: its models finish what they were sent and
go, and it is served without any.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from lepton_inference.changes import Changes
from lepton_inference.endpoint import Endpoint, EndpointNotFound, State
from lepton_inference.ensemble import Ensemble, EnsembleInvalid
from lepton_inference.ensemble_model import EnsembleModel, EnsembleNotReady
from lepton_inference.first_loads import FIRST_LOAD_SECONDS, FirstLoads
from lepton_inference.loader import LoadSession, ModelLoader, loaded_already, shadow_already
from lepton_inference.model import LoadedModel, Model
from lepton_inference.model_errors import ModelDoesNotFit
from lepton_inference.ports import Artifacts, Endpoints, Models
from lepton_inference.serving import Served, Serving, ServingState
from lepton_inference.settings import EndpointInvalid
from lepton_inference.shadow import Comparison, Mirror
from lepton_mesh.errors import Internal, LeptonError

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 15.0
_SEQUENCE_SECONDS = 60.0
"""How long sequences may go on with a model that was replaced, in the memory of both."""
UNLOADED_REASON = "unloaded"
"""What RepositoryIndex says of an endpoint that is unloaded, as Triton does."""
_FOLLOW_SECONDS = 2.0
"""How long another instance's change goes unseen."""

_Key = tuple[str, str]
"""An endpoint's workspace and id."""
_Wanted = tuple[datetime, int]
"""Which endpoint of that id, since one may follow another, and its generation."""
Outcome = asyncio.Future[LeptonError | None]
"""What came of a deployment here: None, or its first failure, after which it may go on trying.
Cancelled when another deployment is begun before."""


class Deployer:
    """Made and used on the event loop that serves."""

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        artifacts: Artifacts,
        cache: Models,
        serving: Serving,
        load: LoadSession,
        platform: str,
        changes: Changes,
        follow_seconds: float = _FOLLOW_SECONDS,
        first_load_seconds: float = FIRST_LOAD_SECONDS,
    ) -> None:
        self.first_loads = FirstLoads(serving, first_load_seconds)
        """Whether what was on record at the start has been loaded."""
        self._endpoints = endpoints
        self._loader = ModelLoader(artifacts, cache, load, platform)
        self._serving = serving
        self._changes = changes
        self._follow_seconds = follow_seconds
        self._following: asyncio.Task[None] | None = None
        self._tasks: dict[_Key, asyncio.Task[None]] = {}
        self._outcomes: dict[_Key, Outcome] = {}
        self._begun: dict[_Key, _Wanted] = {}
        """What was last begun to be brought about, of every endpoint that is known here."""
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Deploys every endpoint on record, and follows the record from then on.

        Returns before they are ready.
        """
        for endpoint in await self._endpoints.all():
            with contextlib.suppress(EndpointNotFound):  # deleted meanwhile
                if not endpoint.unloaded:
                    await self._record(endpoint, State.DEPLOYING)
                self.deploy(endpoint)
                self.first_loads.expect(endpoint)
        self.first_loads.known()
        self._following = asyncio.create_task(self._follow(), name="follow-endpoints")

    async def reconcile(self) -> None:
        """Begins to bring about what other instances have written to the record since."""
        before = dict(self._begun)
        on_record = {(one.workspace, one.id): one for one in await self._endpoints.all()}
        for key in before.keys() | on_record.keys():
            if self._begun.get(key) != before.get(key):
                continue  # changed here while the record was read, which may be older
            endpoint = on_record.get(key)
            if endpoint is None:
                await self.remove(*key)
                self._changes.notify(*key)
            elif _wanted(endpoint) != before.get(key):
                self.deploy(endpoint)
                self._changes.notify(*key)

    def deploy(self, endpoint: Endpoint) -> Outcome:
        """Begins to bring about what ``endpoint`` wants now, whatever was begun before."""
        key = endpoint.workspace, endpoint.id
        before = self._tasks.get(key)
        self._begun[key] = _wanted(endpoint)
        outcome: Outcome = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._deploy_after(before, endpoint, outcome))
        # Also where the task is cancelled before it begins.
        task.add_done_callback(lambda _: outcome.cancel())
        self._tasks[key] = task
        self._outcomes[key] = outcome
        return outcome

    def outcome(self, workspace: str, endpoint_id: str) -> Outcome | None:
        """What comes of the newest deployment of an endpoint; None where there is none."""
        return self._outcomes.get((workspace, endpoint_id))

    async def remove(self, workspace: str, endpoint_id: str) -> None:
        """Serves the endpoint no more and gives its memory back."""
        key = workspace, endpoint_id
        self._begun.pop(key, None)
        self._outcomes.pop(key, None)
        self.first_loads.forget(*key)
        await _cancel(self._tasks.pop(key, None))
        if key in self._begun:
            return  # created anew meanwhile; its models replace these
        for model in self._serving.remove(workspace, endpoint_id):
            self._close_later(model)
        await self._forget_unused()

    async def close(self) -> None:
        """Stops deploying, and closes every model once its queue is empty."""
        await _cancel(self._following)
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            await _cancel(task)
        for workspace, served in list(self._serving.all()):
            for model in self._serving.remove(workspace, served.name):
                self._close_later(model)
        await asyncio.gather(*self._closing)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._follow_seconds)
            try:
                await self.reconcile()
            # Whatever fails, the next look may succeed, and what is served goes on.
            except Exception:
                log.exception("the record of endpoints could not be followed")

    async def _deploy_after(
        self, before: asyncio.Task[None] | None, endpoint: Endpoint, outcome: Outcome
    ) -> None:
        await _cancel(before)
        steps = endpoint.ensemble.endpoints if endpoint.ensemble is not None else ()
        try:
            with self._changes.watch(endpoint.workspace, *steps) as step_changed:
                await self._deploy_until_done(endpoint, outcome, step_changed)
        except EndpointNotFound:
            return  # deleted meanwhile

    async def _deploy_until_done(
        self, endpoint: Endpoint, outcome: Outcome, step_changed: asyncio.Event
    ) -> None:
        pause = _FIRST_PAUSE_SECONDS
        workspace = self._serving.workspace(endpoint.workspace)
        known = workspace.endpoints.get(endpoint.id)
        if known is None or known.failure or (known.unloaded and not endpoint.unloaded):
            self._serving.put(endpoint.workspace, Served(endpoint.id, ServingState.LOADING))
        while True:
            step_changed.clear()
            failure: LeptonError
            try:
                if endpoint.unloaded:
                    await self._unload(endpoint)
                else:
                    await self._deploy(endpoint)
            except EndpointNotFound:
                raise
            except LeptonError as error:
                failure = error
            except MemoryError:
                failure = ModelDoesNotFit("the model does not fit into this machine's memory")
            except Exception:
                log.exception("deployment failed", extra={"endpoint": endpoint.name})
                failure = Internal("the model could not be loaded; the service's log says why")
            else:
                _settle(outcome, None)
                return
            passing = failure.wire.retryable
            await self._failed(endpoint, failure, passing=passing)
            _settle(outcome, failure)
            if not passing and endpoint.ensemble is None:
                return
            # What does not fit today may fit what a step serves tomorrow.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(step_changed.wait(), pause if passing else None)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _deploy(self, endpoint: Endpoint) -> None:
        """Loads what the endpoint wants, and swaps it in."""
        now = self._serving.workspace(endpoint.workspace).endpoints.get(endpoint.id)
        models: list[Model] = []
        try:
            if endpoint.ensemble is not None:
                models.append(self._ensemble(endpoint, endpoint.ensemble))
            for target in endpoint.targets:
                kept = loaded_already(now, endpoint, target.version)
                models.append(kept or await self._loader.load(endpoint, target.version))
            self._check_dependents(endpoint, models)
        except BaseException:
            for model in models:
                if now is None or model not in now.models:
                    self._close_later(model)
            raise
        providers = {
            model.session.placement.provider for model in models if isinstance(model, LoadedModel)
        }
        weights = [target.weight for target in endpoint.targets] or [1]
        served = Served(endpoint.id, ServingState.READY, models=models, weights=weights)
        kept_shadow = shadow_already(now, endpoint)
        for model in self._serving.put(endpoint.workspace, served):
            if model is not kept_shadow:
                self._close_later(model, endpoint)
        await self._cast_shadow(endpoint, served, kept_shadow)
        # Last, so that who reads READY finds it answering.
        await self._record(endpoint, State.READY, execution_provider=", ".join(sorted(providers)))
        self._changes.notify(endpoint.workspace, endpoint.id)
        log.info(
            "endpoint ready",
            extra={
                "endpoint": endpoint.name,
                "workspace": endpoint.workspace,
                "versions": ", ".join(target.version.name for target in endpoint.targets),
                "providers": ", ".join(sorted(providers)),
            },
        )
        await self._forget_unused()

    async def _unload(self, endpoint: Endpoint) -> None:
        """Serves the endpoint without models; those it had finish what they were sent."""
        served = Served(
            endpoint.id, ServingState.UNAVAILABLE, reason=UNLOADED_REASON, unloaded=True
        )
        for model in self._serving.put(endpoint.workspace, served):
            self._close_later(model)
        await self._record(endpoint, State.UNLOADED)
        self._changes.notify(endpoint.workspace, endpoint.id)
        log.info(
            "endpoint unloaded",
            extra={"endpoint": endpoint.name, "workspace": endpoint.workspace},
        )

    async def _forget_unused(self) -> None:
        await self._loader.forget_unused(
            self._endpoints.all, lambda: [served for _, served in self._serving.all()]
        )

    def check_ensemble(self, endpoint: Endpoint, ensemble: Ensemble) -> None:
        """Raises EnsembleInvalid for steps that do not fit each other, as far as they are loaded
        here."""
        with contextlib.suppress(EnsembleNotReady):
            self._ensemble(endpoint, ensemble)

    def _ensemble(self, endpoint: Endpoint, ensemble: Ensemble) -> EnsembleModel:
        workspace = self._serving.workspace(endpoint.workspace)
        model = EnsembleModel(endpoint.id, ensemble, workspace)
        model.check()
        return model

    def _check_dependents(self, endpoint: Endpoint, models: Sequence[Model]) -> None:
        """Raises EnsembleInvalid if ensembles that ask the endpoint could not ask ``models``."""
        for model in self._serving.workspace(endpoint.workspace).models():
            if not isinstance(model, EnsembleModel) or model.unready():
                continue
            try:
                model.check({endpoint.id: models})
            except EnsembleInvalid as error:
                raise EnsembleInvalid(
                    f"the ensemble '{model.source.name}' asks this endpoint and would not fit: "
                    f"{error.message}",
                    ensemble=model.source.name,
                ) from None

    async def _cast_shadow(
        self, endpoint: Endpoint, served: Served, kept: LoadedModel | None
    ) -> None:
        """Gives what is served the shadow that is wanted, if one is; its models answer already."""
        live = [model for model in served.models if isinstance(model, LoadedModel)]
        for model in live:
            model.shadow = None
        wanted = endpoint.shadow
        if wanted is None:
            return
        try:
            model = kept or await self._loader.load(endpoint, wanted.version, shadow=True)
            try:
                mirror = Mirror(model, wanted.percent, wanted.tolerance)
                bonds = [mirror.bond(each.signature) for each in live]
            except EndpointInvalid:
                self._close_later(model)
                raise
        except LeptonError as error:
            error.message = f"the shadow '{wanted.wanted}': {error.message}"
            raise
        for each, bond in zip(live, bonds, strict=True):
            each.shadow = bond
        served.mirror = mirror

    def comparison(self, endpoint: Endpoint) -> Comparison | None:
        """What the endpoint's shadow was found to answer here; None where none runs."""
        served = self._serving.workspace(endpoint.workspace).endpoints.get(endpoint.id)
        return None if served is None or served.mirror is None else served.mirror.comparison

    def activity(self, endpoint: Endpoint) -> str:
        """What is being done here to load the endpoint's models; "" for nothing."""
        return self._loader.activity(endpoint)

    async def _failed(self, endpoint: Endpoint, failure: LeptonError, *, passing: bool) -> None:
        log.warning(
            "endpoint not deployed",
            extra={
                "endpoint": endpoint.name,
                "workspace": endpoint.workspace,
                "reason": failure.reason,
                "detail": failure.message,
                "retrying": passing,
            },
        )
        now = self._serving.workspace(endpoint.workspace).endpoints.get(endpoint.id)
        if now is None or not now.models:
            state = ServingState.LOADING if passing else ServingState.UNAVAILABLE
            reason = "" if passing else failure.reason
            served = Served(endpoint.id, state, reason=failure.message, failure=reason)
            self._serving.put(endpoint.workspace, served)
        await self._record(
            endpoint,
            State.DEPLOYING if passing else State.FAILED,
            failure_reason=failure.reason,
            failure_message=failure.message,
        )
        self._changes.notify(endpoint.workspace, endpoint.id)

    async def _record(
        self,
        endpoint: Endpoint,
        state: State,
        *,
        failure_reason: str = "",
        failure_message: str = "",
        execution_provider: str = "",
    ) -> None:
        """Writes where the endpoint stands, unless something else is wanted of it by now."""

        def change(current: Endpoint) -> Endpoint:
            stands = replace(
                current,
                state=state,
                failure_reason=failure_reason,
                failure_message=failure_message,
                execution_provider=execution_provider,
            )
            if current.generation != endpoint.generation or stands == current:
                return current
            return replace(stands, revision=current.revision + 1)

        await self._endpoints.change(endpoint.workspace, endpoint.id, change)

    def _close_later(self, model: Model, replaced_in: Endpoint | None = None) -> None:
        """Closes a model that nobody is sent to any more, once its queue is empty.

        One that was replaced first goes on with its sequences for a while.
        """
        task = asyncio.create_task(self._close(model, replaced_in))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, model: Model, replaced_in: Endpoint | None) -> None:
        if replaced_in is None:
            await model.close()
            return
        await model.close(_SEQUENCE_SECONDS)
        self._serving.drained(replaced_in.workspace, replaced_in.id, model)


def _wanted(endpoint: Endpoint) -> _Wanted:
    return endpoint.created, endpoint.generation


def _settle(outcome: Outcome, failure: LeptonError | None) -> None:
    if not outcome.done():
        outcome.set_result(failure)


async def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None and not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
