"""What the registry keeps: models, their versions, and what must be true of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any

from lepton_mesh.errors import InvalidArgument
from lepton_mesh.resources import parse_name
from lepton_mesh.texts import text_fault
from lepton_registry.errors import InvalidModel, InvalidVersion

MAX_DESCRIPTION = 4000
"""Characters."""
MAX_LABELS = 64
MAX_LABEL = 256
"""Characters of a label's value."""
MAX_DOCUMENT_BYTES = 256 * 1024
"""Of an evaluation, a parity report or hyperparameters, as JSON."""
MAX_VERSION_BYTES = 1 << 20
"""Of everything that is registered with a version, as JSON."""
MAX_ATTACHMENTS = 16

# Open Inference Protocol, "Tensor Data Types"; BF16 is Triton's addition.
_SIZED = [f"{kind}{bits}" for kind in ("UINT", "INT") for bits in (8, 16, 32, 64)]
DATATYPES = frozenset(["BOOL", *_SIZED, "FP16", "FP32", "FP64", "BF16", "BYTES"])
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class State(IntEnum):
    """Where a version stands."""

    READY = 1
    """May be deployed."""
    ARCHIVED = 2
    """Kept, but not to be deployed any more."""


@dataclass(frozen=True, slots=True)
class Model:
    """A named series of versions."""

    id: str
    description: str
    labels: Mapping[str, str]
    creator: str
    created: datetime
    aliases: Mapping[str, int] = field(default_factory=dict)
    """Alias -> version number."""
    latest: int = 0
    """Number of the newest version; 0 without one."""
    revision: int = 1

    @property
    def name(self) -> str:
        return f"models/{self.id}"

    @property
    def etag(self) -> str:
        return _etag(self.created, self.revision)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of a model."""

    name: str
    datatype: str
    shape: Sequence[int]
    """-1 where the size varies."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes in and what comes out, in the order of the graph."""

    inputs: Sequence[Tensor] = ()
    outputs: Sequence[Tensor] = ()


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version came from."""

    dataset_version: str = ""
    dataset_digest: str = ""
    job: str = ""
    code_version: str = ""
    recipe: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    code_artifact: str = ""
    """The user's own code that trained it; empty for a recipe."""
    code_digest: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """A model's file with its papers; all but description, labels and state is fixed."""

    artifact: str
    sha256: str
    signature: Signature
    metrics: Mapping[str, float]
    evaluation: Mapping[str, Any]
    parity: Mapping[str, Any]
    lineage: Lineage
    class_names: Sequence[str]
    description: str
    labels: Mapping[str, str]
    attachments: Mapping[str, str]
    """File name -> ``artifacts/{artifact}``."""
    state: State = State.READY
    # The registry assigns what follows.
    model: str = ""
    number: int = 0
    size_bytes: int = 0
    creator: str = ""
    created: datetime = datetime.min
    request_id: str = ""
    revision: int = 1

    @property
    def name(self) -> str:
        return f"models/{self.model}/versions/{self.number}"

    @property
    def etag(self) -> str:
        return _etag(self.created, self.revision)


class Phase(IntEnum):
    """What becomes of the files that a hold keeps in storage."""

    REGISTERING = 1
    """They are kept for a version that is not registered yet, and may never be."""
    KEPT = 2
    """A version has them."""
    RELEASED = 3
    """No version came of it: they are whatever they were before."""
    DELETED = 4
    """Their model was deleted: they go, unless another hold keeps them."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What keeps a version's files in storage for as long as the version is registered."""

    id: str
    """32 hex digits."""
    workspace: str
    model: str
    artifacts: Sequence[str]
    """Each ``artifacts/{artifact}``."""
    phase: Phase
    since: datetime
    held: bool = False
    """Whether storage certainly has it."""


def _etag(created: datetime, revision: int) -> str:
    """Unlike that of one with the same name that was deleted before."""
    return f"{round(created.timestamp() * 1_000_000):x}-{revision:x}"


def check_texts(description: str, labels: Mapping[str, str]) -> None:
    """Raises InvalidModel for a description or labels beyond their limits."""
    if fault := text_fault(description, MAX_DESCRIPTION):
        raise InvalidModel(f"description {fault}")
    if len(labels) > MAX_LABELS:
        raise InvalidModel(f"{len(labels)} labels; use at most {MAX_LABELS}")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise InvalidModel(
                f"label '{key[:63]}' is malformed; keys have at most 63 letters, digits and _./-"
            )
        if fault := text_fault(value, MAX_LABEL):
            raise InvalidModel(f"label '{key}' {fault}")


def check_version(version: Version) -> None:
    """Raises InvalidVersion or InvalidModel naming what is wrong with a new version."""
    check_texts(version.description, version.labels)
    _check_name("artifact", "artifacts/{artifact}", version.artifact)
    if not _SHA256.fullmatch(version.sha256):
        raise InvalidVersion("sha256 is not 64 lower-case hex digits; give the artifact's digest")
    _check_tensors("inputs", version.signature.inputs)
    _check_tensors("outputs", version.signature.outputs)
    if bool(version.signature.inputs) != bool(version.signature.outputs):
        raise InvalidVersion("a signature names inputs and outputs; one of them is empty")
    for metric, number in version.metrics.items():
        if not metric or not math.isfinite(number):
            raise InvalidVersion(f"metric '{metric}' is {number}; give it a name and a number")
    for what, document in (
        ("evaluation", version.evaluation),
        ("parity", version.parity),
        ("lineage.hyperparameters", version.lineage.hyperparameters),
    ):
        if (size := len(json.dumps(document))) > MAX_DOCUMENT_BYTES:
            raise InvalidVersion(
                f"{what} has {size} bytes; use at most {MAX_DOCUMENT_BYTES}, or attach a file"
            )
    if len(set(version.class_names)) != len(version.class_names):
        raise InvalidVersion("class_names repeats a name")
    if len(version.attachments) > MAX_ATTACHMENTS:
        raise InvalidVersion(f"{len(version.attachments)} files; use at most {MAX_ATTACHMENTS}")
    for file_name, artifact in version.attachments.items():
        if not _FILE_NAME.fullmatch(file_name):
            raise InvalidVersion(f"'{file_name[:128]}' is not a plain file name")
        _check_name(f"attachments['{file_name}']", "artifacts/{artifact}", artifact)
    _check_lineage(version.lineage)
    whole = json.dumps(asdict(version), default=str)
    if len(whole) > MAX_VERSION_BYTES:
        raise InvalidVersion(f"the version has {len(whole)} bytes; attach files instead")
    if "\\u0000" in whole:
        raise InvalidVersion("a text holds a NUL character; take it out")


def _check_lineage(lineage: Lineage) -> None:
    if lineage.dataset_version:
        pattern = "datasets/{dataset}/versions/{version}"
        _check_name("lineage.dataset_version", pattern, lineage.dataset_version)
    for name in ("dataset_digest", "code_digest"):
        digest = getattr(lineage, name)
        if digest and not (digest.startswith("sha256:") and _SHA256.fullmatch(digest[7:])):
            raise InvalidVersion(f"lineage.{name} is not 'sha256:' and 64 lower-case hex digits")
    if lineage.code_artifact:
        _check_name("lineage.code_artifact", "artifacts/{artifact}", lineage.code_artifact)
    if lineage.job:
        _check_name("lineage.job", "jobs/{job}", lineage.job)


def _check_tensors(which: str, tensors: Sequence[Tensor]) -> None:
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names) or not all(names):
        raise InvalidVersion(f"signature.{which}: every tensor needs a name of its own")
    for tensor in tensors:
        if tensor.datatype not in DATATYPES:
            raise InvalidVersion(
                f"signature.{which} '{tensor.name}': '{tensor.datatype}' is no Open Inference data "
                f"type; use one of {', '.join(sorted(DATATYPES))}"
            )
        if any(size < 1 and size != -1 for size in tensor.shape):
            raise InvalidVersion(
                f"signature.{which} '{tensor.name}': shape {list(tensor.shape)} has a size that is "
                "neither positive nor -1"
            )


def _check_name(field_name: str, pattern: str, value: str) -> None:
    try:
        parse_name(pattern, value)
    except InvalidArgument as error:
        raise InvalidVersion(f"{field_name}: {error.message}") from None
