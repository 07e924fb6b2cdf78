"""Writes a trained network as ONNX, with its preprocessing, and compares it with PyTorch.

Runs in a process of its own, once per export (:mod:`lepton_training.worker.exporter`): reads an
:class:`ExportRequest` and leaves ``model.onnx`` and ``parity.json`` beside it.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.compose
import onnxruntime
import torch
from torch import Tensor, nn

from lepton_training.recipes import RECIPES
from lepton_training.worker.export_request import ExportRequest
from lepton_training.worker.networks import scale
from lepton_training.worker.objectives import Activation
from lepton_training.worker.preprocessing import OPSET, Preprocessor

BATCH = "batch"
"""The dimension that varies."""
BATCH_SIZES = (1, 2, 7, 64, 256)
MORE_BATCH_SIZES = (1, 2, 7)
"""Of rows of other sizes."""
TOLERANCE = 1e-4
"""Largest difference allowed, as a share of the output's size where that is above 1."""

Rows = Mapping[str, npt.NDArray[Any]]
"""Raw rows by input name, as many of each."""


class Served(nn.Module):
    """A trained network with its activation: what is exported."""

    def __init__(self, network: nn.Module, activation: Activation, *, raw_images: bool) -> None:
        """``raw_images``: the input is UINT8 ``[N, H, W]``, or ``[N, H, W, 3]`` of colors, and is
        scaled here."""
        super().__init__()
        self.network = network
        self.activation = activation
        self.raw_images = raw_images

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.raw_images:
            inputs = tuple(scale(images) for images in inputs)
        return self.activation(self.network(*inputs))


def export(directory: Path, request: ExportRequest) -> dict[str, Any]:
    """Writes ``model.onnx``; returns the parity report, whose ``agrees`` says how it went."""
    recipe = RECIPES[request.recipe]
    network = recipe.build(
        recipe.hyperparameters(**request.hyperparameters), recipe.data.shape(**request.shape)
    )
    network.load_state_dict(torch.load(directory / request.weights, weights_only=True))
    served = Served(
        network, Activation(**request.activation), raw_images=recipe.data.raw_images
    ).eval()
    rows, *more = (_stored(directory / name) for name in (request.rows, *request.more_rows))
    target = directory / "model.onnx"
    if request.preprocessing:
        preprocessor = Preprocessor((directory / request.preprocessing).read_bytes())
        # At least two rows: the exporter would take a batch of one for a constant.
        example = preprocessor(batch_of(rows, 2, 0))
        part = directory / "network.onnx"
        write_network(served, example, preprocessor.outputs, request.output, part, opset=OPSET)
        join(preprocessor, part, target)
    else:
        preprocessor = None
        example = tuple(batch_of(rows, 2, 0).values())
        write_network(served, example, tuple((name, ()) for name in rows), request.output, target)
    onnx.checker.check_model(str(target), full_check=True)
    report = compare(served, target, rows, BATCH_SIZES, preprocessor)
    for others in more:
        include(report, compare(served, target, others, MORE_BATCH_SIZES, preprocessor))
    return report


def _stored(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path, allow_pickle=True) as stored:
        return dict(stored.items())


def include(report: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Adds batches of rows of another size: all have to agree."""
    report["batches"] += other["batches"]
    report["agrees"] = report["agrees"] and other["agrees"]
    report["max_abs_error"] = float(np.max([report["max_abs_error"], other["max_abs_error"]]))


def write_network(
    served: Served,
    example: Sequence[npt.NDArray[Any]],
    inputs: Sequence[tuple[str, tuple[str, ...]]],
    output: str,
    target: Path,
    *,
    opset: int | None = None,
) -> None:
    """Writes the network; ``inputs`` are names, each with its further varying dimensions."""
    dimensions = {name: torch.export.Dim(name, min=1) for _, names in inputs for name in names}
    batch = torch.export.Dim(BATCH, min=1)
    program = torch.onnx.export(
        served,
        tuple(torch.from_numpy(array) for array in example),
        dynamo=True,
        opset_version=opset,
        input_names=[name for name, _ in inputs],
        output_names=[output],
        dynamic_shapes=(
            tuple(
                {0: batch} | {1 + axis: dimensions[name] for axis, name in enumerate(names)}
                for _, names in inputs
            ),
        ),
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    program.save(str(target), external_data=False)


def join(preprocessor: Preprocessor, network: Path, target: Path) -> None:
    """Writes one model of both: raw rows in, the network's output out."""
    # What lies beside the network is none of its own where somebody else wrote it.
    second = onnx.load(network, load_external_data=False)
    first = preprocessor.model
    first.ir_version = second.ir_version
    names = [name for name, _ in preprocessor.outputs]
    joined = onnx.compose.merge_models(first, second, io_map=[(name, name) for name in names])
    onnx.save(joined, target)


def compare(
    served: Callable[..., Tensor],
    model: Path,
    rows: Rows,
    sizes: Sequence[int],
    preprocessor: Preprocessor | None = None,
) -> dict[str, Any]:
    """PyTorch against ONNX Runtime on raw ``rows``: a batch of each size, from different rows."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (output,) = (tensor.name for tensor in session.get_outputs())
    batches, begin = [], 0
    for size in sizes:
        batch = batch_of(rows, size, begin)
        begin += size
        inputs = preprocessor(batch) if preprocessor else tuple(batch.values())
        with torch.inference_mode():
            expected = served(*(torch.from_numpy(array) for array in inputs)).numpy()
        (actual,) = session.run([output], dict(batch))
        error = np.abs(expected - actual)
        same = {}
        if expected.ndim == 2 and expected.shape[1] > 1:
            same["same_class"] = int((expected.argmax(1) == actual.argmax(1)).sum())
        batches.append(
            {
                "batch_size": size,
                "row_shapes": {name: list(values.shape[1:]) for name, values in batch.items()},
                "max_abs_error": float(error.max()),
                "mean_abs_error": float(error.mean()),
                "max_relative_error": float((error / np.maximum(np.abs(expected), 1)).max()),
                **same,
            }
        )
    # Not max(), which passes over NaN.
    worst = float(np.max([batch["max_relative_error"] for batch in batches]))
    return {
        "max_abs_error": float(np.max([batch["max_abs_error"] for batch in batches])),
        "tolerance": TOLERANCE,
        # Written so that NaN does not agree.
        "agrees": bool(worst <= TOLERANCE),
        "batches": batches,
        "output": output,
        "providers": session.get_providers(),
        "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
    }


def batch_of(rows: Rows, size: int, begin: int) -> dict[str, npt.NDArray[Any]]:
    """``size`` rows from ``begin`` on; after the last comes the first."""
    return {
        name: np.take(values, range(begin, begin + size), axis=0, mode="wrap")
        for name, values in rows.items()
    }


def export_as_asked(path: Path) -> None:
    """Does what the :class:`ExportRequest` in the file ``path`` says; once in a process."""
    # Notices about operators that we do not use would fill the end of the job's log.
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    request = ExportRequest(**json.loads(path.read_text()))
    report = export(path.parent, request)
    (path.parent / "parity.json").write_text(json.dumps(report, indent=1))
