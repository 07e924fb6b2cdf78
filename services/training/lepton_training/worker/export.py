"""Writes a trained network as ONNX and compares it with PyTorch on real rows.

Runs as a process of its own, once per export: repeated or concurrent exports in
one process fail. ``python -m lepton_training.worker.export REQUEST.json`` reads
an :class:`ExportRequest` and leaves ``model.onnx`` and ``parity.json`` beside it.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from lepton_training.recipes import RECIPES, ImageShape
from lepton_training.worker.networks import BATCH, INPUT, OUTPUT, Served

BATCH_SIZES = (1, 2, 7, 64, 256)
TOLERANCE = 1e-4
"""Largest difference allowed between two probabilities."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What the export process is told; paths are relative to the request's directory."""

    recipe: str
    hyperparameters: dict[str, Any]
    height: int
    width: int
    classes: int
    weights: str
    """A state_dict, as ``torch.save`` writes it."""
    rows: str
    """Real test images, ``.npy``, UINT8 ``[N, H, W]``."""


def export(directory: Path, request: ExportRequest) -> dict[str, Any]:
    """Writes ``model.onnx``; returns the parity report, whose ``agrees`` says how it went."""
    recipe = RECIPES[request.recipe]
    network = recipe.build(
        recipe.hyperparameters(**request.hyperparameters),
        ImageShape(request.height, request.width, request.classes),
    )
    network.load_state_dict(torch.load(directory / request.weights, weights_only=True))
    served = Served(network).eval()
    rows = np.load(directory / request.rows)
    target = directory / "model.onnx"
    # At least two rows: the exporter would take a batch of one for a constant.
    example = torch.from_numpy(np.resize(rows, (2, *rows.shape[1:])))
    program = torch.onnx.export(
        served,
        (example,),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},),
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    program.save(str(target), external_data=False)
    onnx.checker.check_model(str(target), full_check=True)
    return compare(served, target, rows, BATCH_SIZES)


def compare(
    served: torch.nn.Module, model: Path, rows: npt.NDArray[np.uint8], sizes: Sequence[int]
) -> dict[str, Any]:
    """PyTorch against ONNX Runtime on ``rows``, a batch of each size (rows repeat if too few)."""
    onnxruntime.disable_telemetry_events()
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    batches = []
    for size in sizes:
        batch = np.resize(rows, (size, *rows.shape[1:]))
        with torch.inference_mode():
            expected = served(torch.from_numpy(batch)).numpy()
        (actual,) = session.run([OUTPUT], {INPUT: batch})
        error = np.abs(expected - actual)
        batches.append(
            {
                "batch_size": size,
                "max_abs_error": float(error.max()),
                "mean_abs_error": float(error.mean()),
                "same_class": int((expected.argmax(1) == actual.argmax(1)).sum()),
            }
        )
    worst = max(batch["max_abs_error"] for batch in batches)
    return {
        "max_abs_error": worst,
        "tolerance": TOLERANCE,
        # Written so that NaN does not agree.
        "agrees": bool(worst <= TOLERANCE),
        "batches": batches,
        "output": OUTPUT,
        "providers": session.get_providers(),
        "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
    }


def main() -> None:
    """Entry point of the export process."""
    # Notices about operators that we do not use would fill the end of the job's log.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    path = Path(sys.argv[1])
    request = ExportRequest(**json.loads(path.read_text()))
    report = export(path.parent, request)
    (path.parent / "parity.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
