"""ONNX Runtime tells nobody which models run here: its telemetry is off before it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "lepton_inference.adapters.devices",
        "lepton_training.worker.preprocessing",
        "lepton_training.worker.own.verify",
    ],
)
def test_no_telemetry_is_queued(module: str, tmp_path: Path) -> None:
    """An import alone would leave a device's id and a queue of events in the home directory."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    subprocess.run(
        [sys.executable, "-c", f"import {module}, onnxruntime"],
        env={**environment, "HOME": str(tmp_path)},
        check=True,
    )
    left = [path for path in tmp_path.rglob("*") if "onnxruntime" in str(path)]
    assert left == []
