"""``make demo``: the main job, on a small subset of real data."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.e2e

KEYS = {
    "dataset",
    "test_accuracy",
    "gateway_accuracy_grpc",
    "gateway_accuracy_rest",
    "macro_f1",
    "seconds_per_epoch",
    "parity_max_abs_error",
    "model_version",
    "requests_per_second_grpc",
    "total_seconds",
}


def _subset(source: Path, folder: Path, train: int, test: int) -> Path:
    """The four IDX files with the first examples of a random order."""
    from lepton_local.demo.dataset import write_idx

    random = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        images = gzip.decompress((source / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((source / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
        pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
        chosen = random.permutation(len(pixels))[:count]
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", pixels[chosen])
        truth = np.frombuffer(labels, np.uint8, offset=8)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", truth[chosen])
    return folder


def _demo(data: Path, build: Path) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-m", "lepton_local.demo"),
        *("--data", data, "--build", build, "--epochs", "2"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        try:
            output, said = demo.communicate(timeout=140)
        except subprocess.TimeoutExpired:
            demo.terminate()  # and not killed: it stops its stack
            output, said = demo.communicate(timeout=30)
        return subprocess.CompletedProcess(command, demo.returncode, output, said)


def test_the_demo_takes_raw_files_to_the_same_accuracy_at_the_gateway(
    tmp_path: Path, real_data: Path
) -> None:
    """On 3,000 MNIST images, what is served is what was trained, to the image."""
    data = tmp_path / "data"
    data.mkdir()
    _subset(real_data / "mnist", data, 3000, 500)

    done = _demo(data, tmp_path / "build")

    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures == json.loads((tmp_path / "build" / "demo.json").read_text())
    assert set(figures) == KEYS
    assert figures["dataset"] == "mnist"
    assert figures["model_version"] == "models/digits/versions/1"
    assert figures["test_accuracy"] > 0.8
    assert abs(figures["gateway_accuracy_grpc"] - figures["test_accuracy"]) <= 1 / 500 + 1e-9
    assert figures["gateway_accuracy_rest"] == figures["gateway_accuracy_grpc"]
    assert len(figures["seconds_per_epoch"]) == 2
    assert figures["parity_max_abs_error"] < 1e-4


def test_a_folder_without_the_files_is_named(tmp_path: Path) -> None:
    """The demo ends with one line, before it starts anything."""
    done = _demo(tmp_path, tmp_path / "build")
    assert done.returncode == 1
    assert "lacks train-images-idx3-ubyte.gz" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "build" / "demo-stack").exists()
