"""Endpoints: a name in a workspace under which model versions answer.

    NotFound         <- EndpointNotFound
    AlreadyExists    <- EndpointExists
    InvalidArgument  <- EndpointInvalid
    Aborted          <- EndpointChanged   somebody else changed it meanwhile

An endpoint is desired state. What it wants is written first; a Deployer brings it about and
writes back where it stands. So a restart, which finds nothing loaded, is no special case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from lepton_inference.ensemble import Ensemble
from lepton_inference.settings import EndpointInvalid, ModelSettings
from lepton_mesh.errors import Aborted, AlreadyExists, NotFound

MAX_TARGETS = 16
MAX_LABELS = 64
MAX_DESCRIPTION = 4000
MAX_TOLERANCE = 1e9


class EndpointNotFound(NotFound):
    reason = "ENDPOINT_NOT_FOUND"


class EndpointExists(AlreadyExists):
    reason = "ENDPOINT_EXISTS"


class EndpointChanged(Aborted):
    reason = "ENDPOINT_CHANGED"


class State(Enum):
    """Where an endpoint stands."""

    DEPLOYING = "DEPLOYING"
    READY = "READY"
    FAILED = "FAILED"
    UNLOADED = "UNLOADED"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version in the registry, as far as serving it needs."""

    name: str
    """``models/{model}/versions/{n}``."""
    artifact: str
    """``artifacts/{artifact}`` in storage."""
    sha256: str
    class_names: tuple[str, ...] = ()
    """Names of the classes, in the order of the output; empty where there are none."""

    @property
    def number(self) -> str:
        """The ``n`` of its name, which is the model's version in the protocol."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Target:
    """A share of an endpoint's traffic."""

    wanted: str
    """As the user named it: a version or an alias."""
    weight: int
    version: ModelVersion


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that is asked a share of the traffic as well, and compared."""

    wanted: str
    """As the user named it."""
    percent: float
    tolerance: float
    """The largest absolute difference in which floating-point numbers agree."""
    version: ModelVersion


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is to be served, and where it stands."""

    workspace: str
    id: str
    targets: tuple[Target, ...]
    """What answers; none where an ensemble does."""
    settings: ModelSettings
    state: State
    creator: str
    created: datetime
    updated: datetime
    revision: int = 1
    """One more with every change of what is wanted or of where it stands."""
    generation: int = 1
    """One more with every change of what is to be served."""
    failure_reason: str = ""
    failure_message: str = ""
    execution_provider: str = ""
    shadow: Shadow | None = None
    ensemble: Ensemble | None = None
    """The graph of other endpoints that answers instead of targets."""
    unloaded: bool = False
    """Whether it is kept on record without being served."""
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``endpoints/{endpoint}``."""
        return f"endpoints/{self.id}"


@dataclass(frozen=True, slots=True)
class WantedShadow:
    """A shadow whose version is not resolved yet."""

    version: str
    """A version or an alias."""
    percent: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user asks of an endpoint; versions are not resolved yet."""

    targets: tuple[tuple[str, int], ...] = ()
    """(version or alias, weight) pairs; a weight of 0 means 1."""
    shadow: WantedShadow | None = None
    ensemble: Ensemble | None = None
    settings: ModelSettings = field(default_factory=ModelSettings)
    unloaded: bool = False
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)


def check_targets(targets: Sequence[tuple[str, int]]) -> None:
    """Raises EndpointInvalid for no target or too many, and for a weight out of bounds."""
    if not 1 <= len(targets) <= MAX_TARGETS:
        raise EndpointInvalid(
            f"an endpoint has 1 to {MAX_TARGETS} targets, this one has {len(targets)}"
        )
    for wanted, weight in targets:
        if not 0 <= weight <= 1_000_000:
            raise EndpointInvalid(
                f"the weight of '{wanted}' is {weight}; use 0 (which means 1) to 1000000",
                model_version=wanted,
            )


def check_shadow(shadow: WantedShadow) -> None:
    """Raises EndpointInvalid for a share or a tolerance out of bounds."""
    if not 0 < shadow.percent <= 100:
        raise EndpointInvalid(
            f"shadow.percent is {shadow.percent:g}; give more than 0 and at most 100, or no shadow",
            field="shadow.percent",
        )
    if not 0 <= shadow.tolerance <= MAX_TOLERANCE:
        raise EndpointInvalid(
            f"shadow.tolerance is {shadow.tolerance:g}; use 0 to {MAX_TOLERANCE:g}",
            field="shadow.tolerance",
        )


def check_notes(description: str, labels: dict[str, str]) -> None:
    """Raises EndpointInvalid for a description or labels beyond their bounds."""
    if len(description) > MAX_DESCRIPTION:
        raise EndpointInvalid(f"a description has at most {MAX_DESCRIPTION} characters")
    if len(labels) > MAX_LABELS:
        raise EndpointInvalid(f"an endpoint has at most {MAX_LABELS} labels")
