"""The check of a request against what a model takes."""

from __future__ import annotations

import pytest

from lepton_inference.signature import InferenceRequest, InputTensor, Signature
from lepton_inference.tensors import DATATYPES, TensorInvalid, TensorSpec

SPEC = TensorSpec("x", DATATYPES["FP32"], (-1, 4))


@pytest.mark.parametrize("shape", [(-1, 4), (1, -4), (-1,)])
def test_a_negative_shape_is_told_as_such(shape: tuple[int, ...]) -> None:
    """Also where it reads the same as the model's own, whose -1 stands for any size."""
    request = InferenceRequest("m", "", [InputTensor("x", "FP32", shape, bytes(16))])
    with pytest.raises(TensorInvalid, match="a request's shape cannot be negative"):
        Signature((SPEC,), (), batched=True).check(request, 8)
