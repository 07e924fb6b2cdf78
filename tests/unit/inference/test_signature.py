"""The check of a request against what a model takes."""

from __future__ import annotations

import pytest

from lepton_inference.signature import InferenceRequest, InputTensor, Signature
from lepton_inference.tensors import DATATYPES, TensorInvalid, TensorSpec, check_raw

SPEC = TensorSpec("x", DATATYPES["FP32"], (-1, 4))


@pytest.mark.parametrize("shape", [(-1, 4), (1, -4), (-1,)])
def test_a_negative_shape_is_told_as_such(shape: tuple[int, ...]) -> None:
    """Also where it reads the same as the model's own, whose -1 stands for any size."""
    request = InferenceRequest("m", "", [InputTensor("x", "FP32", shape, bytes(16))])
    with pytest.raises(TensorInvalid, match="a request's shape cannot be negative"):
        Signature((SPEC,), (), batched=True).check(request, 8)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "the request has no inputs; the model takes 'x'"),
        (
            [InputTensor("y", "FP32", (1, 4), bytes(16))],
            "has the inputs 'y'; the model",
        ),
    ],
)
def test_other_inputs_are_told(inputs: list[InputTensor], message: str) -> None:
    """Those that came, and those that the model takes."""
    with pytest.raises(TensorInvalid, match=message):
        Signature((SPEC,), (), batched=True).check(InferenceRequest("m", "", inputs), 8)


def test_one_byte_is_not_told_as_bytes() -> None:
    """Where a count is told, its noun goes with it."""
    with pytest.raises(TensorInvalid, match="has 1 byte; FP32"):
        check_raw("x", DATATYPES["FP32"], (1, 4), bytes(1))
