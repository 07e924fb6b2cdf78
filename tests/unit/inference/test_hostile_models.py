"""Models that mean harm: refused with a reason, and nothing happens to who loads them."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lepton_inference.adapters.model_messages import LoadOrder
from lepton_inference.adapters.model_process import ModelProcess
from lepton_inference.adapters.onnx_runtime import load
from lepton_inference.interruption import Interruption
from lepton_inference.model_errors import (
    ModelCrashed,
    ModelDoesNotFit,
    ModelInvalid,
    ModelTimeout,
)
from lepton_inference.settings import ExecutionSettings, Isolation, ModelSettings
from tests import hostile_models as hostile
from tests.inference_models import linear


def file(directory: Path, content: bytes) -> Path:
    path = directory / "model.onnx"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "No graph"),
        (b"not a model", "does not parse"),
        (linear(1.0)[:-20], "does not parse"),
        (hostile.nested(2000), "nested too deeply"),
        (hostile.cyclic(), "not acyclic"),
        (hostile.without_opset(), "opset"),
        (hostile.unknown_operator(), "evil"),
        (hostile.weights_of([1 << 62, 1 << 62], b"1234"), "claim the shape"),
        (hostile.weights_of([-4], b"1234"), "claim the shape"),
        (hostile.weights_of([4], b"1234"), "4 bytes"),
        (hostile.external("../weights.bin"), "not in the model's folder"),
        (hostile.external("/etc/hostname"), "not in the model's folder"),
        (hostile.external("link"), "not in the model's folder"),
        (hostile.external("folder/../link"), "not in the model's folder"),
        (hostile.external("link", in_branch=True), "not in the model's folder"),
        (hostile.external("*/_ORT_MEM_ADDR_/*"), "not in the model's folder"),
        (hostile.external(""), "not in the model's folder"),
        *(
            (hostile.external_inside(place, "../weights.bin"), "not in the model's folder")
            for place in ("function", "default", "sparse", "training")
        ),
        (hostile.compiled_elsewhere(), "compiled"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """With what is wrong, whoever finds it, and without a path of this machine."""
    (tmp_path / "weights.bin").write_bytes(np.ones(4, np.float32).tobytes())
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ModelInvalid, match=said) as refused:
        load(file(folder, content), ModelSettings())
    assert str(tmp_path) not in refused.value.message


def test_weights_that_are_not_numbers_are_weights(tmp_path: Path) -> None:
    """What a model computes is its own affair."""
    path = file(tmp_path, linear(float("nan")))
    (scores,) = load(path, ModelSettings()).run({"image": np.ones((1, 4), np.float32)})
    assert np.isnan(scores).all()


def test_a_model_that_takes_all_memory_does_not_fit(tmp_path: Path) -> None:
    """It is the process that tries it which has no memory left."""
    with pytest.raises(ModelDoesNotFit):
        load(file(tmp_path, hostile.expands_to(1 << 36)), ModelSettings())


def test_a_model_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    """After a time that is set."""
    with pytest.raises(ModelTimeout, match="2 s"):
        load(file(tmp_path, hostile.endless()), ModelSettings(), trial_seconds=2.0)


@pytest.mark.parametrize(
    ("number", "limit_mib", "error"),
    [
        (signal.SIGSEGV, 0, ModelCrashed),
        (signal.SIGSEGV, 512, ModelDoesNotFit),
        (signal.SIGKILL, 0, ModelDoesNotFit),
    ],
)
def test_a_model_that_ends_its_process_is_told_of(
    tmp_path: Path, number: signal.Signals, limit_mib: int, error: type[Exception]
) -> None:
    """The kernel kills when memory ends, and where it is bounded libraries may crash of it."""
    execution = ExecutionSettings(isolation=Isolation.OWN_PROCESS, memory_limit_mib=limit_mib)
    order = LoadOrder(file(tmp_path, linear(1.0)), ModelSettings(execution=execution))
    with ModelProcess.start() as process:
        os.kill(process.pid, number)
        with pytest.raises(error):
            process.load(order, 60.0)


def test_nothing_is_left_of_the_process(tmp_path: Path) -> None:
    """It is gone, and reaped, when it is closed; computing or not."""
    process = ModelProcess.start()
    with process, pytest.raises(ModelTimeout):
        process.load(LoadOrder(file(tmp_path, hostile.endless()), ModelSettings()), 1.0)
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_trial_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
    """Not two minutes later; nor does one begin that is unwanted by then."""
    unwanted = Interruption()
    path = file(tmp_path, hostile.endless())
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(load, path, ModelSettings(), unwanted)
        unwanted.interrupt()
        assert isinstance(running.exception(60), ModelDoesNotFit)
