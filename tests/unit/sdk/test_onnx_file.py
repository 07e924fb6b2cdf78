"""Reading what an ONNX file takes and gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto

from lepton.client import ModelFileError
from lepton.client.onnx_file import signature_of
from tests.inference_models import NUMBERS, identity, linear


def test_the_signature_is_read_from_the_file(tmp_path: Path) -> None:
    """Weights are no inputs, and a size that requests choose is -1."""
    path = tmp_path / "linear.onnx"
    path.write_bytes(linear(1.0))
    signature = signature_of(path)
    (image,), (scores,) = signature.inputs, signature.outputs
    assert (image.name, image.datatype, list(image.shape)) == ("image", "FP32", [-1, 4])
    assert (scores.name, scores.datatype, list(scores.shape)) == ("scores", "FP32", [-1, 3])


@pytest.mark.parametrize(
    ("element", "datatype"),
    [*((each, name) for name, each in NUMBERS.items()), (TensorProto.STRING, "BYTES")],
)
def test_every_datatype_has_its_name(tmp_path: Path, element: int, datatype: str) -> None:
    path = tmp_path / "identity.onnx"
    path.write_bytes(identity(element, [1]))
    assert signature_of(path).inputs[0].datatype == datatype


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is not an ONNX model"),
        (b"PK\x03\x04 a zip", "is not an ONNX model"),
        (identity(TensorProto.COMPLEX64, [1]), "'x' is not a tensor of numbers"),
    ],
)
def test_what_cannot_be_served_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=told):
        signature_of(path)
