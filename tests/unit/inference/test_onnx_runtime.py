"""Loading: what is refused, and what is found out about a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from lepton_inference.adapters.onnx_runtime import ModelInvalid, load
from tests.inference_models import across_rows, identity, linear, with_external_weights


def file(directory: Path, content: bytes) -> Path:
    path = directory / "model.onnx"
    path.write_bytes(content)
    return path


def test_a_small_model_runs_inline(tmp_path: Path) -> None:
    """Its rows are found independent, its signature read, its provider named."""
    session = load(file(tmp_path, linear(1.0)), 64)
    assert session.signature.batched
    assert session.signature.inputs[0].shape == (-1, 4)
    assert session.placement.inline
    assert session.placement.provider == "CPUExecutionProvider"


def test_rows_that_see_each_other_do_not_share_a_batch(tmp_path: Path) -> None:
    """A model that centres over the batch would answer one caller with another's data."""
    assert not load(file(tmp_path, across_rows()), 64).signature.batched


def test_a_fixed_first_dimension_is_no_batch(tmp_path: Path) -> None:
    """It takes the shape it says, and nothing is put together."""
    signature = load(file(tmp_path, identity(onnx.TensorProto.FLOAT, [2, 2])), 64).signature
    assert not signature.batched
    assert signature.inputs[0].shape == (2, 2)


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/hostname", "link/weights.bin", ""])
def test_weights_outside_of_the_folder_are_refused(tmp_path: Path, place: str) -> None:
    """Neither a relative nor an absolute path leads out, nor does a link."""
    (tmp_path / "weights.bin").write_bytes(np.ones((4, 3), np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ModelInvalid, match=r"outside|lie"):
        load(file(folder, with_external_weights(place)), 64)


def test_weights_beside_the_model_are_taken(tmp_path: Path) -> None:
    """External data as such is no fault."""
    (tmp_path / "weights.bin").write_bytes(np.ones((4, 3), np.float32).tobytes())
    session = load(file(tmp_path, with_external_weights("weights.bin")), 64)
    (scores,) = session.run({"image": np.ones((1, 4), np.float32)})
    assert scores.tolist() == [[4.0, 4.0, 4.0]]


@pytest.mark.parametrize("content", [b"", b"not a model", linear(1.0)[:-20]])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    """One clear error, whatever the parser or the runtime says."""
    with pytest.raises(ModelInvalid):
        load(file(tmp_path, content), 64)


def test_a_datatype_that_the_protocol_lacks_is_refused(tmp_path: Path) -> None:
    """The tensor and its type are named."""
    with pytest.raises(ModelInvalid, match="complex64"):
        load(file(tmp_path, identity(onnx.TensorProto.COMPLEX64, ["batch", 2])), 64)
