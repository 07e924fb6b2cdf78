"""What is served now: for each workspace its endpoints, and for each endpoint its models.

Everything here lives on the event loop and is changed there, so that a request sees one
state or the next, never half of one.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate
from typing import TYPE_CHECKING

from lepton_inference.endpoint import EndpointNotFound
from lepton_inference.model import LoadedModel, Model
from lepton_inference.plans import Plans
from lepton_inference.rest_plans import RestPlans
from lepton_inference.shadow import Mirror
from lepton_inference.signature import InferenceRequest
from lepton_inference.tracing import Tracing, Values
from lepton_mesh.caller import Caller
from lepton_mesh.errors import FailedPrecondition, NotFound, Unavailable

if TYPE_CHECKING:
    from lepton_mesh.telemetry import Telemetry


class VersionNotServed(NotFound):
    reason = "VERSION_NOT_SERVED"


class EndpointNotReady(Unavailable):
    reason = "ENDPOINT_NOT_READY"


class EndpointFailed(FailedPrecondition):
    """Loading it failed with what does not pass by itself; nothing is to be waited for."""

    reason = "ENDPOINT_FAILED"


class EndpointUnloaded(Unavailable):
    """Kept on record, and not served until somebody loads it again."""

    reason = "ENDPOINT_UNLOADED"


class ServingState(Enum):
    """As Triton's RepositoryIndex spells them."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(slots=True)
class Served:
    """One endpoint, as requests see it."""

    name: str
    state: ServingState
    reason: str = ""
    """Why it is UNAVAILABLE."""
    failure: str = ""
    """The reason of the error that it could not be loaded for; "" where it may still be."""
    models: list[Model] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    """The share of requests that goes to each model; any positive scale."""
    unloaded: bool = False
    """Whether it is UNAVAILABLE because somebody wants it so."""
    mirror: Mirror | None = None
    """The shadow; requests are never sent to it by name."""
    draining: list[Model] = field(default_factory=list)
    """Models that were replaced, and go on with the sequences which they began."""

    @property
    def loaded(self) -> list[Model]:
        """Its models and its shadow's."""
        return self.models if self.mirror is None else [*self.models, self.mirror.model]

    def counted(self, version: str) -> list[Model]:
        """Those of a version, of all for "", whose statistics are wanted; raises as pick."""
        found = [model for model in self.loaded if version in ("", model.source.version)]
        return found if found or not version else [self.pick(version)]

    def route(self, request: InferenceRequest) -> Model:
        """The model for one request: where its sequence is kept, else as :meth:`pick` says.

        Requests of a sequence go to one version even where models keep no states: the
        sequence's id is their routing key, unless they have another.

        Raises:
            EndpointUnloaded, EndpointFailed, EndpointNotReady, VersionNotServed: From :meth:`pick`.
        """
        step = request.sequence
        if step is None:
            return self.pick(request.version, request.routing_key)
        key = request.owner, step.id
        holders = [model for model in (*self.models, *self.draining) if model.holds(key)]
        if not step.start:
            for model in holders:
                if request.version in ("", model.source.version):
                    return model
        picked = self.pick(request.version, request.routing_key or str(step.id))
        for model in holders:
            if step.start and model is not picked and model.sequences is not None:
                model.sequences.forget(key)  # it begins anew, with another model
        return picked

    def always(self, model: LoadedModel) -> bool:
        """Whether what was once answered by ``model`` goes straight to its queue each time.

        A split over several models decides anew for each request, and a cache is asked first.
        """
        return self.models == [model] and model.cache is None

    def standing(self) -> tuple[ServingState, str]:
        """Where it stands now, and why if it is not READY; an ensemble stands with its steps."""
        for model in self.models:
            if why := model.unready():
                return ServingState.UNAVAILABLE, why
        return self.state, self.reason

    def pick(self, version: str = "", routing_key: str = "") -> Model:
        """The model for one request: of that version, else by key, else by weight.

        A key goes to the same version for as long as the endpoint serves it with that weight;
        over many keys each version gets its share (weighted rendezvous hashing: Schindelhauer
        and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005, the logarithmic method).

        Raises:
            EndpointUnloaded: It is not to be served.
            EndpointFailed: It could not be loaded.
            EndpointNotReady: Nothing is loaded yet.
            VersionNotServed: The endpoint does not serve that version.
        """
        if self.unloaded:
            raise EndpointUnloaded(
                f"endpoint '{self.name}' is unloaded; `lepton endpoint load {self.name}` serves it "
                "again",
                endpoint=self.name,
            )
        if not self.models and self.failure:
            # What failed comes last: long messages are cut, and the remedy is to stay.
            raise EndpointFailed(
                f"endpoint '{self.name}' could not be loaded; mend what follows, then "
                f"`lepton endpoint update {self.name}`, or `lepton endpoint load {self.name}` if "
                f"nothing of the endpoint is wrong. {self.failure}: {self.reason}",
                endpoint=self.name,
                failure_reason=self.failure,
            )
        if not self.models:
            # As above: the reason may be long.
            why = f". {self.reason}" if self.reason else ""
            raise EndpointNotReady(
                f"endpoint '{self.name}' is {self.state.value.lower()}; send the request again in "
                f"a moment, or see how far it is: `lepton endpoint get {self.name}`{why}",
                endpoint=self.name,
            )
        if version:
            for model in self.models:
                if model.source.version == version:
                    return model
            raise VersionNotServed(
                f"endpoint '{self.name}' does not serve version '{version}'; it serves "
                f"{', '.join(model.source.version for model in self.models)}",
                endpoint=self.name,
                version=version,
            )
        if len(self.models) == 1:
            return self.models[0]
        if routing_key:
            return max(
                zip(self.models, self.weights, strict=True),
                key=lambda pair: _score(routing_key, pair[0], pair[1]),
            )[0]
        shares = list(accumulate(self.weights))
        return random.choices(self.models, cum_weights=shares)[0]  # noqa: S311  no secret


def _score(routing_key: str, model: Model, weight: int) -> float:
    """How much a key is drawn to a model."""
    place = f"{model.source.version}\0{model.source.digest}\0{routing_key}"
    drawn = int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest(), "big")
    # Half a step off both ends, in as many bits as a float tells apart from 0 and from 1.
    return -weight / math.log(((drawn >> 12) + 0.5) / 2**52)


class Workspace:
    """The endpoints of one workspace."""

    def __init__(self, tracing: Tracing | None = None) -> None:
        self.endpoints: dict[str, Served] = {}
        self.plans = Plans()
        self.rest_plans = RestPlans()
        self.tracing = tracing or Tracing(None)
        self.revision = 0
        """One more with every change of what is served."""

    def find(self, name: str) -> Served:
        """The endpoint of that name; raises EndpointNotFound."""
        served = self.endpoints.get(name)
        if served is None:
            raise EndpointNotFound(
                f"there is no endpoint '{name}' in this workspace; `lepton endpoint list` shows "
                "those that are",
                name=f"endpoints/{name}",
            )
        return served

    def changed(self) -> None:
        """To be called whenever what is served has changed."""
        self.revision += 1
        self.plans.clear()
        self.rest_plans.clear()

    def trace(self, model: str, changes: Mapping[str, Values]) -> None:
        """Changes which requests are traced; see Tracing.change."""
        self.tracing.change(model, changes)
        self.plans.clear()  # they remember it
        self.rest_plans.clear()

    def models(self) -> Iterator[Model]:
        """The models of every endpoint, those of shadows too."""
        for served in self.endpoints.values():
            yield from served.loaded


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who asks, and what they see of what is served."""

    caller: Caller
    workspace: Workspace
    expires: float = math.inf
    """When the token that was shown does, Unix seconds."""
    serial: str = ""
    """Of the certificate that the caller came over, lower-case hex."""


class Serving:
    """All workspaces of this instance.

    Args:
        telemetry: Where the spans of requests go that a workspace has traced; None for nowhere.
    """

    def __init__(self, telemetry: Telemetry | None = None) -> None:
        self._telemetry = telemetry
        self._workspaces: dict[str, Workspace] = {}

    def workspace(self, name: str) -> Workspace:
        """The workspace of that name, empty if nothing is served in it.

        It stays the same for as long as this instance lives: callers who were admitted to it
        keep it, and see in it whatever is served by then.
        """
        found = self._workspaces.get(name)
        if found is None:
            found = self._workspaces[name] = Workspace(Tracing(self._telemetry))
        return found

    def put(self, workspace: str, served: Served) -> list[Model]:
        """Serves the endpoint from now on.

        Returns:
            The models that the same endpoint had before and has no more; close them, and say so
            by :meth:`drained`. Until then they go on with the sequences which they began.
        """
        place = self.workspace(workspace)
        before = place.endpoints.get(served.name)
        place.endpoints[served.name] = served
        place.changed()
        if before is None:
            return []
        replaced = [model for model in before.loaded if model not in served.loaded]
        if served.models:
            served.draining = [
                model
                for model in (*before.draining, *replaced)
                if model.sequences is not None and model.sequences.live
            ]
        else:
            _end_sequences(before.draining)
        return replaced

    def drained(self, workspace: str, name: str, model: Model) -> None:
        """Notes that a model that was replaced is closed."""
        served = self.workspace(workspace).endpoints.get(name)
        if served is not None and model in served.draining:
            served.draining.remove(model)

    def remove(self, workspace: str, name: str) -> list[Model]:
        """Serves the endpoint no more and ends its sequences; returns its models, to be closed."""
        place = self.workspace(workspace)
        served = place.endpoints.pop(name, None)
        if served is None:
            return []
        place.changed()
        place.tracing.forget(name)
        _end_sequences(served.draining)
        return served.loaded

    def all(self) -> Iterator[tuple[str, Served]]:
        """Every endpoint, with its workspace."""
        for workspace, place in list(self._workspaces.items()):
            for served in list(place.endpoints.values()):
                yield workspace, served


def _end_sequences(models: list[Model]) -> None:
    for model in models:
        if model.sequences is not None:
            model.sequences.close()
