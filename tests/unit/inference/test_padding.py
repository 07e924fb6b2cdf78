"""Rows of different lengths in one batch, through ONNX Runtime and without."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.adapters.onnx_runtime import load
from lepton_inference.batch import Work
from lepton_inference.batch_queue import BatchQueue, RequestExpired
from lepton_inference.batcher import NO_DEADLINE
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.padding import Padding
from lepton_inference.settings import BatchingSettings, ModelSettings
from lepton_inference.signature import InferenceRequest, InputTensor, Signature
from lepton_inference.statistics import Statistics
from lepton_inference.tensors import DATATYPES, TensorSpec
from lepton_inference.wire import response_of
from tests.inference_models import identity

FP32 = DATATYPES["FP32"]


def signature(*shapes: tuple[str, ...]) -> Signature:
    """Inputs of those names of dimensions, and an output like the first."""
    specs = [
        TensorSpec(f"x{index}", FP32, (-1,) * len(names), names)
        for index, names in enumerate(shapes)
    ]
    return Signature(tuple(specs), (TensorSpec("y", FP32, specs[0].shape, shapes[0]),), True)


async def served(path: Path, element: int, pad: bool) -> LoadedModel:
    (path / "model.onnx").write_bytes(identity(element, ["batch", "length"]))
    settings = ModelSettings(BatchingSettings(pad_ragged=pad, max_delay_seconds=0.05))
    return LoadedModel(
        ModelSource("m", "1", "test", ""), load(path / "model.onnx", settings), settings
    )


async def ask(model: LoadedModel, datatype: str, shape: tuple[int, int], data: Any) -> Any:
    request = InferenceRequest("m", "", [InputTensor("x", datatype, shape, data)])
    checked, outcome = await model.infer(request)
    answer = pb.ModelInferResponse.FromString(
        response_of(model, outcome, checked.rows, checked.outputs, "")
    )
    return tuple(answer.outputs[0].shape), answer.raw_output_contents[0]


@pytest.mark.parametrize(("pad", "batches"), [(True, 1), (False, 3)])
async def test_lengths_share_a_batch_when_they_may(tmp_path: Path, pad: bool, batches: int) -> None:
    """Each gets back what it sent, as long as it was."""
    model = await served(tmp_path, onnx.TensorProto.FLOAT, pad)
    sent = [
        np.full((rows, length), length, np.float32) for rows, length in ((1, 3), (2, 7), (1, 1))
    ]
    answers = await asyncio.gather(
        *(ask(model, "FP32", each.shape, each.tobytes()) for each in sent)
    )
    assert answers == [(each.shape, each.tobytes()) for each in sent]
    assert model.statistics.executions == batches
    await model.close()


async def test_text_is_padded_with_empty_text(tmp_path: Path) -> None:
    """And cut back like anything else."""
    model = await served(tmp_path, onnx.TensorProto.STRING, True)
    sent = [np.array([["a"]], object), np.array([["b", "c"]], object)]
    answers = await asyncio.gather(*(ask(model, "BYTES", each.shape, each) for each in sent))
    assert [shape for shape, _ in answers] == [(1, 1), (1, 2)]
    assert answers[1][1] == b"\1\0\0\0b\1\0\0\0c"
    await model.close()


def test_rows_are_padded_with_zeros_at_the_end() -> None:
    """To the longest in each dimension."""
    padding = Padding(signature(("batch", "h", "w")))
    ones = np.ones((1, 1, 2), np.float32)
    parts = [((ones.tobytes(),), 1, ((1, 2),)), ((b"",), 1, ((3, 0),))]
    (column,), tails = padding.pad(parts)
    assert tails == ((3, 2),)
    array: Any = column[0]
    assert array.tolist() == [[[1, 1], [0, 0], [0, 0]], [[0, 0], [0, 0], [0, 0]]]


def test_inputs_that_disagree_about_a_dimension_are_not_padded() -> None:
    """Padding would hide it from the model."""
    padding = Padding(signature(("batch", "length"), ("batch", "length")))
    assert padding.key(((3,), (3,))) == padding.key(((5,), (5,))) == ((-1,), (-1,))
    assert padding.key(((3,), (5,))) == ((3,), (5,))


def test_one_long_row_does_not_make_a_huge_batch() -> None:
    """A padded batch has its bounds."""
    padding = Padding(signature(("batch", "length")))
    assert padding.fits(((1 << 20,),), 16)
    assert not padding.fits(((1 << 20,),), 17)


async def test_who_does_not_run_makes_no_batch_longer() -> None:
    """A long row that came too late neither counts for the bytes of a batch nor cuts it short."""
    padding = Padding(signature(("batch", "length")))
    queue = BatchQueue(
        BatchingSettings(), batched=True, batch_rows=64, statistics=Statistics(), padding=padding
    )
    loop = asyncio.get_running_loop()

    def work(length: int, deadline: float) -> Work:
        return Work((b"",), 1, ((length,),), deadline, loop.create_future())

    dead = [work(1 << 24, 0.0) for _ in range(2)]
    alive = [work(length, NO_DEADLINE) for length in (3, 4)]
    for each in (dead[0], alive[0], dead[1], alive[1]):
        queue.add(each, 0)
    assert queue.next().works == alive
    assert queue.waiting == 0
    assert all(isinstance(each.future.exception(), RequestExpired) for each in dead)
