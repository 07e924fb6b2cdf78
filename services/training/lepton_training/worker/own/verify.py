"""Judges what a user's code left: joins, checks, compares and measures it. A process of its own.

``python -m lepton_training.worker.own.verify DIRECTORY`` reads the job's request in its directory
and what lies in the code's folder, and leaves ``model.onnx``, the reports and
``verified.json`` (:class:`Verified`). Nothing there is believed: the graph is checked and may not
refer to other files, arrays hold no objects, and figures are measured here, by ONNX Runtime.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor

from lepton_mesh.errors import LeptonError
from lepton_mesh.onnx_parts import tensors_of
from lepton_training.job import METRICS_MAX
from lepton_training.job_files import OWN_DIRECTORY, read_request
from lepton_training.spec import JobSpec, parse_spec
from lepton_training.worker.assessment import assess
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.export import BATCH_SIZES, compare, include, join
from lepton_training.worker.own.errors import CodeModelInvalid
from lepton_training.worker.own.training import compared_rows, problem_spec
from lepton_training.worker.platform import TensorSpec
from lepton_training.worker.preprocessing import Preprocessor
from lepton_training.worker.tuning import Plan

_FILE_MAX = 2_000_000_000
"""Bytes of a file that the code left, of arrays unpacked: protobuf's own bound."""
_JUDGED_DIRECTORY = "judged"
_ROWS = 1000
_NAME_MAX = 64

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Verified:
    """What is to be registered, beside the files; plain data."""

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    class_names: list[str]
    metrics: dict[str, float]
    evaluation: dict[str, Any]
    attachments: list[str]
    failure: list[str]
    """Reason and message; empty where all is well."""


def verify(directory: Path) -> Verified:
    """Writes ``model.onnx``, ``parity.json``, ``evaluation.json`` and ``data.json``.

    Raises:
        CodeModelInvalid: The graph is damaged, or not of the data's kind.
    """
    request = read_request(directory)
    spec = parse_spec(request["spec"], cores=request["cpus"])
    torch.set_num_threads(request["cpus"])
    left = directory / OWN_DIRECTORY
    # Nothing lies there that a graph could refer to.
    judged = directory / _JUDGED_DIRECTORY
    shutil.rmtree(judged, ignore_errors=True)
    judged.mkdir()
    network = judged / "network.onnx"
    _take(left / "network.onnx", network)
    result = json.loads(_bytes(left / "result.json", 1 << 20))
    _check_graph(network)
    judge = _verify_alone if spec.data_kind is None else _verify_by_kind
    verified = judge(directory, spec, network, result)
    (judged / "model.onnx").replace(directory / "model.onnx")
    return verified


def _verify_by_kind(
    directory: Path, spec: JobSpec, network: Path, result: Mapping[str, Any]
) -> Verified:
    problem = load_problem(directory / "data", problem_spec(spec))
    preprocessor = None
    target = network.with_name("model.onnx")
    if problem.preprocessing is not None:
        preprocessor = Preprocessor(problem.preprocessing)
        join(preprocessor, network, target)
        onnx.checker.check_model(str(target), full_check=True)
    else:
        network.replace(target)
        network = target
    (output,) = problem.outputs
    expected = Expected(directory / OWN_DIRECTORY / "expected.npz", output)
    parity, *more = (
        compare(expected, target, rows, sizes, preprocessor)
        for rows, sizes in compared_rows(problem)
    )
    for others in more:
        include(parity, others)
    raw_images = spec.data_kind is not None and spec.data_kind.raw_images
    predictions = _predictions(network, problem, raw_images=raw_images)
    assessment = assess(
        directory,
        problem,
        predictions,
        spec.evaluation,
        network=None,  # code is not run here: there is no module to ask
        plan=Plan(torch.get_num_threads(), channels_last=False),
        seed=spec.seed,
    )
    _write(
        directory / "data.json",
        {
            "dataset": spec.dataset,
            "settings": spec.data.model_dump(),
            "about": problem.about,
            **problem.report,
        },
    )
    _write(directory / "parity.json", parity)
    return Verified(
        inputs=[asdict(one) for one in problem.inputs],
        outputs=[asdict(one) for one in problem.outputs],
        class_names=list(problem.class_names),
        metrics=_finite(assessment.evaluation.metrics()) | _seconds(result),
        evaluation=assessment.for_version(),
        attachments=["parity.json", "data.json", *assessment.attachments],
        failure=[],
    )


def _verify_alone(
    directory: Path, spec: JobSpec, network: Path, result: Mapping[str, Any]
) -> Verified:
    """Of code without a kind of data: its own figures stand for an evaluation."""
    target = network.with_name("model.onnx")
    network.replace(target)
    left = directory / OWN_DIRECTORY
    rows = _arrays(left / "rows.npz")
    (output,) = (_tensor(one) for one in result["outputs"])
    inputs = [_tensor(one) for one in result["inputs"]]
    parity = compare(Expected(left / "expected.npz", output), target, rows, BATCH_SIZES)
    metrics = _finite(result["metrics"])
    evaluation = {"reported_by_code": metrics}
    _write(directory / "evaluation.json", evaluation)
    _write(directory / "data.json", {"dataset": spec.dataset})
    _write(directory / "parity.json", parity)
    return Verified(
        inputs=[asdict(one) for one in inputs],
        outputs=[asdict(output)],
        class_names=[],
        metrics=metrics | _seconds(result),
        evaluation=evaluation,
        attachments=["evaluation.json", "parity.json", "data.json"],
        failure=[],
    )


class Expected:
    """In place of the module: what it gave in the code's process, batch after batch."""

    def __init__(self, path: Path, output: TensorSpec) -> None:
        stored = _arrays(path)
        self._batches = iter([stored[str(number)] for number in range(len(stored))])
        self._shape = output.shape[1:]

    def __call__(self, *inputs: Tensor) -> Tensor:
        expected = next(self._batches, None)
        if expected is None or expected.shape != (len(inputs[0]), *self._shape):
            raise CodeModelInvalid("what the module gave is not of the shape that it must have")
        return torch.from_numpy(expected)


def _predictions(network: Path, problem: Problem, *, raw_images: bool) -> npt.NDArray[np.float32]:
    """What is served for the test split."""
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    parts = []
    for begin in range(0, len(problem.test), _ROWS):
        arrays = [one.numpy() for one in problem.test.inputs(slice(begin, begin + _ROWS))]
        if raw_images:  # examples are scaled already, by exactly 255
            arrays = [_pixels(one) for one in arrays]
        parts.append(session.run(None, dict(zip(names, arrays, strict=True)))[0])
    predictions: npt.NDArray[np.float32] = np.concatenate(parts)
    if not np.isfinite(predictions).all():
        raise CodeModelInvalid("the model gives what is no number for rows of the test split")
    return predictions


def _pixels(images: Array) -> Array:
    """FP32 ``[N, C, H, W]`` in [0, 1] as they were stored: UINT8 ``[N, H, W]``, or with colors
    ``[N, H, W, 3]``."""
    whole = np.rint(images * 255).astype(np.uint8)
    return whole[:, 0] if whole.shape[1] == 1 else np.ascontiguousarray(whole.transpose(0, 2, 3, 1))


def _check_graph(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    for tensor in tensors_of(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise CodeModelInvalid("the graph refers to another file; keep the weights in it")
    onnx.checker.check_model(str(path), full_check=True)
    # Beside the output, nothing is served that the platform does not know.
    if len(model.graph.output) != 1:
        raise CodeModelInvalid(f"the graph has {len(model.graph.output)} outputs; it needs one")


@contextmanager
def _opened(path: Path, most: int) -> Iterator[BinaryIO]:
    """A file that the code left; no link, no pipe, and none of more than ``most`` bytes."""
    wrong = CodeModelInvalid(f"{path.name} that the code left is no file, or too large")
    try:
        # Without O_NONBLOCK, a pipe that nobody writes to would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        raise wrong from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise wrong
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _take(source: Path, target: Path) -> None:
    with _opened(source, _FILE_MAX) as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy)


def _bytes(path: Path, most: int) -> bytes:
    with _opened(path, most) as file:
        return file.read()


def _arrays(path: Path) -> dict[str, Array]:
    """Arrays by name, of a file as ``np.savez`` writes it; none of objects, which would be code."""
    with _opened(path, _FILE_MAX) as file, np.load(file, allow_pickle=False) as stored:
        if sum(entry.file_size for entry in stored.zip.infolist()) > _FILE_MAX:
            raise CodeModelInvalid(f"{path.name} that the code left is too large when unpacked")
        return dict(stored.items())


def _tensor(values: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(
        str(values["name"]),
        str(values["datatype"]),
        tuple(int(size) for size in values["shape"]),
        str(values["description"]),
    )


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    numbers = {str(name): float(value) for name, value in metrics.items()}
    finite = all(math.isfinite(one) for one in numbers.values())
    if not finite or len(numbers) > METRICS_MAX or max(map(len, numbers), default=0) > _NAME_MAX:
        raise CodeModelInvalid(
            f"the figures of the code are not {METRICS_MAX} finite numbers at most, with names of "
            f"{_NAME_MAX} characters at most"
        )
    return numbers


def _seconds(result: Mapping[str, Any]) -> dict[str, float]:
    seconds = [float(one) for one in result["epoch_seconds"]]
    return {"seconds_per_epoch": sum(seconds) / len(seconds)} if seconds else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))


def main() -> None:
    """Entry point of the verifying process."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    directory = Path(sys.argv[1])
    try:
        verified = verify(directory)
    except (
        LeptonError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        onnx.checker.ValidationError,
    ) as error:
        # What the code left is not as it must be.
        known = isinstance(error, LeptonError)
        logging.getLogger(__name__).exception("not taken", exc_info=not known)
        reason = error.reason if isinstance(error, LeptonError) else CodeModelInvalid.reason
        message = str(error) if known else f"what the code left cannot be read: {str(error)[:300]}"
        verified = Verified([], [], [], {}, {}, [], [reason, message])
    _write(directory / "verified.json", asdict(verified))


if __name__ == "__main__":
    main()
