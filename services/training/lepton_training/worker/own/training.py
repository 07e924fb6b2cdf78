"""The two ways to train with a user's own code, and what it leaves; in the code's process.

Left in the code's folder are ``network.onnx``, the module with its activation; ``expected.npz``,
what PyTorch gives for batches of raw rows; and ``result.json``. The platform's own process joins,
compares and measures them.
"""

from __future__ import annotations

import json
import logging
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lepton_training.job_files import CHECKPOINT_FILE
from lepton_training.own_code import KINDS
from lepton_training.recipes.data import ImageShape
from lepton_training.spec import JobSpec
from lepton_training.worker import checkpoint as checkpoints
from lepton_training.worker.data import cleaning
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.export import (
    BATCH_SIZES,
    MORE_BATCH_SIZES,
    Rows,
    Served,
    batch_of,
    write_network,
)
from lepton_training.worker.image_front import fronted
from lepton_training.worker.objectives import Activation, Regression
from lepton_training.worker.own.context import Context, Dataset, Finished, Split
from lepton_training.worker.own.errors import CodeModelInvalid, CodeNoModel
from lepton_training.worker.own.messages import Messages
from lepton_training.worker.pipeline import train_until_stopped, with_batch_size
from lepton_training.worker.platform import TensorSpec
from lepton_training.worker.preprocessing import OPSET, Preprocessor
from lepton_training.worker.trainer import Moment, Trainer
from lepton_training.worker.tuning import Plan

log = logging.getLogger(__name__)

_EXAMPLE_ROWS = 2
DATATYPES = {
    torch.float32: "FP32",
    torch.float64: "FP64",
    torch.float16: "FP16",
    torch.uint8: "UINT8",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.bool: "BOOL",
}
"""Open Inference data types of tensors that the code gives as an example."""

Function = Callable[[], Callable[..., Any]]
"""Imports the user's function."""


def train_own(
    spec: JobSpec,
    function: Function,
    *,
    data: Path,
    directory: Path,
    cpus: int,
    messages: Messages,
) -> None:
    """Lets the code train by itself.

    Raises:
        CodeNoModel: It gave no module.
        CodeModelInvalid: Its module does not fit the data, or cannot be exported.
    """
    problem = _problem(data, spec) if spec.data_kind is not None else None
    if problem is None:
        dataset = Dataset(data)
    else:
        dataset = Dataset(
            path=data,
            kind=spec.code.data_kind if spec.code is not None else "",
            shape=problem.shape,
            class_names=problem.class_names,
            train=Split(problem.train),
            test=Split(problem.test),
        )
    context = Context(
        dataset=dataset,
        hyperparameters=spec.hyperparameters.model_dump(),
        seed=spec.seed,
        cpus=cpus,
        directory=directory,
        messages=messages,
    )
    returned = function()(context)
    if returned is not None or context.finished is None:
        context.finish(returned)
    finished = context.finished
    assert finished is not None  # noqa: S101 - finish raises otherwise
    messages.send("exporting")
    module = finished.module.cpu().eval()
    if problem is None:
        _leave_alone(directory, module, finished)
    else:
        activation = served_activation(problem)
        _leave(directory, module, problem, activation, raw_images=_raw_images(spec))
        _write(directory, {"epoch_seconds": []})


def train_module(
    spec: JobSpec,
    function: Function,
    *,
    data: Path,
    directory: Path,
    cpus: int,
    messages: Messages,
) -> None:
    """Trains the module that the code makes, as a recipe's network is trained.

    Raises:
        CodeNoModel: It made no module.
        CodeModelInvalid: The module does not fit the data, or cannot be exported.
        LossNotFinite: As of a recipe.
    """
    problem = _problem(data, spec)
    spec = with_batch_size(spec, len(problem.train))
    torch.manual_seed(spec.seed)
    arguments = spec.code.arguments if spec.code is not None else {}
    network = function()(problem.shape, **arguments)
    if not isinstance(network, nn.Module):
        raise CodeNoModel(
            f"the code made an object of type {type(network).__name__}; return a torch.nn.Module"
        )
    if isinstance(problem.shape, ImageShape):  # scaling and features, as of a recipe
        network = fronted(network, problem.shape)
    _check_outputs(network, problem)
    hyperparameters: Any = spec.hyperparameters
    path = directory / CHECKPOINT_FILE
    trainer = Trainer(
        network,
        problem,
        hyperparameters,
        seed=spec.seed,
        plan=Plan(cpus, channels_last=False),
        cpus=cpus,
        fixed_threads=spec.deterministic,
        report=lambda moment: _report(messages, moment),
        checkpoint_path=path,
    )
    state = checkpoints.load(path)
    if state is not None:
        log.info("resuming at step %d", state.step)
        trainer.resume(state)
    epoch_seconds = train_until_stopped(trainer)
    messages.send("exporting")
    activation = problem.objective.activation
    _leave(directory, network.eval(), problem, activation, raw_images=_raw_images(spec))
    _write(directory, {"epoch_seconds": epoch_seconds})


def problem_spec(spec: JobSpec) -> JobSpec:
    """The spec by which the dataset is read: code that trains by itself has hyperparameters of its
    own, of which the reading knows nothing."""
    if spec.code is None or not spec.code.entry_point:
        return spec
    defaults = KINDS[spec.code.data_kind].hyperparameters.model_validate({})
    return replace(spec, hyperparameters=defaults)


def _problem(data: Path, spec: JobSpec) -> Problem:
    problem = load_problem(data, problem_spec(spec))
    log.info("%s: %s", spec.dataset, problem.about)
    for line in cleaning.lines(problem.report):
        log.info("%s", line)
    return problem


def compared_rows(problem: Problem) -> list[tuple[Rows, Sequence[int]]]:
    """Raw rows that the exported model is compared on, with the sizes of their batches."""
    more = [(rows, MORE_BATCH_SIZES) for rows in problem.more_rows]
    return [(problem.raw_rows, BATCH_SIZES), *more]


def served_activation(problem: Problem) -> Activation:
    """What follows a module that trained by itself: class probabilities; numbers as they are."""
    if isinstance(problem.objective, Regression):
        return Activation("linear")
    return problem.objective.activation


def _raw_images(spec: JobSpec) -> bool:
    return spec.data_kind is not None and spec.data_kind.raw_images


def _report(messages: Messages, moment: Moment) -> None:
    messages.send(
        "measurement",
        step=moment.step,
        epoch=moment.epoch,
        epochs=moment.epochs,
        progress=moment.fraction,
        metrics=dict(moment.metrics),
        epoch_end=moment.epoch_end,
        epoch_seconds=moment.epoch_seconds,
    )


def _check_outputs(module: nn.Module, problem: Problem) -> None:
    """Asks the module for a few rows: what does not fit is told before hours of training."""
    module.eval()
    with torch.inference_mode():
        outputs = module(*problem.train.inputs(slice(_EXAMPLE_ROWS)))
    rows = min(_EXAMPLE_ROWS, len(problem.train))
    wanted = (rows, *problem.outputs[0].shape[1:])
    if not isinstance(outputs, Tensor):
        raise CodeModelInvalid(f"the module gives a {type(outputs).__name__}; give one tensor")
    if tuple(outputs.shape) != wanted or outputs.dtype != torch.float32:
        raise CodeModelInvalid(
            f"for {rows} rows the module gives {outputs.dtype} {list(outputs.shape)}; this data "
            f"needs torch.float32 {list(wanted)}"
        )


def _leave(
    directory: Path,
    module: nn.Module,
    problem: Problem,
    activation: Activation,
    *,
    raw_images: bool,
) -> None:
    _check_outputs(module, problem)
    served = Served(module, activation, raw_images=raw_images).eval()
    output = problem.outputs[0].name
    preprocessor = None
    if problem.preprocessing is not None:
        preprocessor = Preprocessor(problem.preprocessing)

    def prepared(rows: Rows, size: int, begin: int) -> tuple[npt.NDArray[Any], ...]:
        batch = batch_of(rows, size, begin)
        return preprocessor(batch) if preprocessor else tuple(batch.values())

    _write_expected(directory, served, compared_rows(problem), prepared)
    names = preprocessor.outputs if preprocessor else tuple((name, ()) for name in problem.raw_rows)
    _export(directory, served, prepared(problem.raw_rows, _EXAMPLE_ROWS, 0), names, output)


def _leave_alone(directory: Path, module: nn.Module, finished: Finished) -> None:
    """Of code that has no kind of data: its example says what goes in."""
    example = finished.example
    if not example:
        raise CodeModelInvalid(
            "without code.data_kind context.finish needs an example_input: a tensor of some rows"
        )
    for tensor in example:
        if tensor.dim() == 0 or not len(tensor) or tensor.dtype not in DATATYPES:
            raise CodeModelInvalid(
                f"an example input is {tensor.dtype} {list(tensor.shape)}; give rows, of a type "
                f"among {', '.join(str(dtype) for dtype in DATATYPES)}"
            )
    with torch.inference_mode():
        outputs = module(*example)
    if not isinstance(outputs, Tensor) or outputs.shape[:1] != example[0].shape[:1]:
        raise CodeModelInvalid("the module must give one tensor, with a row for each row it takes")
    if outputs.dtype not in DATATYPES:
        raise CodeModelInvalid(f"the module gives {outputs.dtype}, which cannot be served")
    served = Served(module, Activation("linear"), raw_images=False).eval()
    names = ["input"] if len(example) == 1 else [f"input_{n}" for n in range(len(example))]
    rows = {name: tensor.cpu().numpy() for name, tensor in zip(names, example, strict=True)}
    _write_expected(
        directory,
        served,
        [(rows, BATCH_SIZES)],
        lambda rows, size, begin: tuple(batch_of(rows, size, begin).values()),
    )
    np.savez(directory / "rows.npz", allow_pickle=False, **rows)
    inputs = tuple(batch_of(rows, _EXAMPLE_ROWS, 0).values())
    _export(directory, served, inputs, tuple((name, ()) for name in names), "output")
    specs = [_spec(name, tensor) for name, tensor in zip(names, example, strict=True)]
    _write(
        directory,
        {
            "epoch_seconds": [],
            "metrics": dict(finished.metrics),
            "inputs": [asdict(one) for one in specs],
            "outputs": [asdict(_spec("output", outputs))],
        },
    )


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, DATATYPES[tensor.dtype], (-1, *tensor.shape[1:]), "")


def _write_expected(
    directory: Path,
    served: nn.Module,
    compared: Sequence[tuple[Rows, Sequence[int]]],
    prepared: Callable[[Rows, int, int], tuple[npt.NDArray[Any], ...]],
) -> None:
    """What PyTorch gives, for the batches that :func:`export.compare` takes."""
    expected: dict[str, npt.NDArray[Any]] = {}
    for rows, sizes in compared:
        begin = 0
        for size in sizes:
            inputs = prepared(rows, size, begin)
            begin += size
            with torch.inference_mode():
                given = served(*(torch.from_numpy(array) for array in inputs))
            expected[str(len(expected))] = given.numpy()
    np.savez(directory / "expected.npz", allow_pickle=False, **expected)


def _export(
    directory: Path,
    served: Served,
    example: tuple[npt.NDArray[Any], ...],
    names: tuple[tuple[str, tuple[str, ...]], ...],
    output: str,
) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    try:
        write_network(served, example, names, output, directory / "network.onnx", opset=OPSET)
    except Exception as error:  # the exporter raises what it likes
        traceback.print_exc()
        said = str(error).strip().splitlines() or [""]
        raise CodeModelInvalid(
            f"the module cannot be written as ONNX ({type(error).__name__}: {said[0][:300]}); the "
            "log says more"
        ) from None


def _write(directory: Path, result: Mapping[str, Any]) -> None:
    (directory / "result.json").write_text(json.dumps(result))
