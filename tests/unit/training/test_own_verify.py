"""What a user's code left is judged: files that are none, and graphs that ask for other files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from lepton_training.spec import parse_spec
from lepton_training.worker.export import BATCH_SIZES, join
from lepton_training.worker.own import verify as judging
from lepton_training.worker.own.errors import CodeModelInvalid
from lepton_training.worker.own.verify import verify
from lepton_training.worker.preprocessing import Graph, Preprocessor
from tests import hostile_models as hostile

SECRET = b"a token, 16 byte"
ROWS = np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4)


def relu() -> bytes:
    return hostile.model_of([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A job's directory where own code without a kind of data has ended well."""
    spec = parse_spec(
        {
            "code": {"artifact": "artifacts/7f", "entry_point": "net:train"},
            "dataset": "datasets/d/versions/1",
            "model": "models/m",
        },
        cores=1,
    )
    (tmp_path / "job.json").write_text(json.dumps({"spec": spec.to_dict(), "cpus": 1}))
    (tmp_path / "access-token").write_bytes(SECRET)
    left = tmp_path / "own"
    left.mkdir()
    (left / "network.onnx").write_bytes(relu())
    np.savez(left / "rows.npz", x=ROWS)
    batches = [
        np.take(ROWS, range(begin, begin + size), axis=0, mode="wrap")
        for begin, size in zip(np.cumsum([0, *BATCH_SIZES]), BATCH_SIZES, strict=False)
    ]
    np.savez(left / "expected.npz", **{str(n): one.clip(0) for n, one in enumerate(batches)})
    tensor = {"datatype": "FP32", "shape": [-1, 4], "description": ""}
    result = {
        "inputs": [tensor | {"name": "x"}],
        "outputs": [tensor | {"name": "y"}],
        "metrics": {"loss": 0.5},
        "epoch_seconds": [],
    }
    (left / "result.json").write_text(json.dumps(result))
    return tmp_path


def test_what_is_well_is_to_be_registered(directory: Path) -> None:
    verified = verify(directory)
    assert (verified.failure, verified.metrics) == ([], {"loss": 0.5})
    assert json.loads((directory / "parity.json").read_text())["agrees"]
    onnx.checker.check_model(str(directory / "model.onnx"))


@pytest.mark.parametrize(
    "graph",
    [
        hostile.external("access-token"),
        hostile.external("access-token", in_branch=True),
        *(
            hostile.external_inside(place, "access-token")
            for place in ("function", "default", "sparse", "training")
        ),
    ],
)
def test_a_graph_may_not_ask_for_a_file_of_the_job(directory: Path, graph: bytes) -> None:
    """Wherever in it the tensor lies: the job's token would be registered with the model."""
    (directory / "own" / "network.onnx").write_bytes(graph)
    with pytest.raises(CodeModelInvalid, match="refers to another file"):
        verify(directory)
    assert not (directory / "model.onnx").exists()


def test_a_joined_graph_has_nothing_of_its_folder(tmp_path: Path) -> None:
    """Weights in another file are not fetched from there."""
    (tmp_path / "access-token").write_bytes(SECRET)
    network = onnx.load_from_string(hostile.external("access-token"))
    network.opset_import[0].version = 20
    (tmp_path / "network.onnx").write_bytes(network.SerializeToString())
    front = Graph()
    raw = front.input("raw", "FP32", ["batch", 4])
    front.output(front.add("Abs", raw), "x", "FP32", ["batch", 4])
    with pytest.raises(onnx.checker.ValidationError, match="access-token"):
        join(Preprocessor(front.build()), tmp_path / "network.onnx", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("name", ["network.onnx", "result.json", "rows.npz", "expected.npz"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "nothing", "large"])
def test_what_the_code_left_is_a_file(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """A link is not followed, and a pipe not waited for."""
    path = directory / "own" / name
    content = path.read_bytes()
    path.unlink()
    if kind == "link":
        path.symlink_to(directory / "access-token")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        monkeypatch.setattr(judging, "_FILE_MAX", 1 << 20)
        path.write_bytes(content + bytes(2 << 20))
    with pytest.raises(CodeModelInvalid, match=f"{name} that the code left is no file, or too"):
        verify(directory)


def test_arrays_that_unfold_without_end(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file may have very many numbers."""
    monkeypatch.setattr(judging, "_FILE_MAX", 1 << 20)
    np.savez_compressed(directory / "own" / "rows.npz", x=np.zeros((1 << 19, 4), np.float32))
    with pytest.raises(CodeModelInvalid, match="too large when unpacked"):
        verify(directory)
