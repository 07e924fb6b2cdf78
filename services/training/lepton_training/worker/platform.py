"""What a job needs from the rest of Lepton: its data in, its model out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model's signature."""

    name: str
    datatype: str
    """Open Inference data type, such as UINT8."""
    shape: tuple[int, ...]
    """-1 where the size varies."""
    description: str


@dataclass(frozen=True, slots=True)
class Publication:
    """A trained model with its papers."""

    job: str
    model: str
    """``models/{model}``; made when missing."""
    model_file: Path
    attachments: Mapping[str, Path]
    """Reports to keep beside it, by file name."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    class_names: tuple[str, ...]
    metrics: Mapping[str, float]
    evaluation: Mapping[str, Any]
    parity: Mapping[str, Any]
    dataset_version: str
    dataset_digest: str
    code_version: str
    recipe: str
    hyperparameters: Mapping[str, Any]
    code_artifact: str = ""
    """The user's own code that trained it; empty for a recipe."""
    code_sha256: str = ""


class Platform(Protocol):
    """Storage and registry, with the job's own rights. Methods block."""

    def fetch_dataset(self, version: str, directory: Path) -> None:
        """Writes the version's files below ``directory``, each checked against its digest."""

    def fetch_artifact(self, name: str, sha256: str, target: Path) -> None:
        """Writes an artifact to ``target``, checked against that digest."""

    def store_checkpoint(self, file: BinaryIO, size_bytes: int, sha256: str) -> str:
        """Keeps the first bytes of ``file``; returns ``artifacts/{artifact}``.

        Tries once, unlike the others: a later checkpoint is as good. Raises LeptonError.
        """

    def publish(self, publication: Publication) -> str:
        """Uploads and registers; returns ``models/{model}/versions/{n}``.

        Done twice for one job, it returns the same version.
        """

    def close(self) -> None:
        """Closes its connections, in seconds at most."""
