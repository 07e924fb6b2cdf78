"""Values that a model's operators do not take: who sent them is told, and nothing breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_inference.adapters import devices
from lepton_inference.adapters.isolated_session import IsolatedSession
from lepton_inference.adapters.onnx_runtime import load
from lepton_inference.adapters.onnx_session import (
    OnnxSession,
    open_session,
    run_failure,
    signature_of,
)
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.model_errors import InputRefused, MemoryLimit
from lepton_inference.placement import Placement
from lepton_inference.settings import ExecutionSettings, Isolation, ModelSettings
from tests import hostile_models as hostile

HUGE = float(1 << 62)
WORDS = "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running "


def images(value: float) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.full((1, 4), value, np.float32)}


def opened(path: Path, operator: str) -> OnnxSession:
    path.write_bytes(hostile.sized_by_its_value(operator))
    session = open_session(path, [devices.CPU], threads=1)
    return OnnxSession(session, signature_of(session), Placement(devices.CPU, 1, 0, 0))


@pytest.mark.parametrize(
    ("operator", "value", "said"),
    [
        ("ConstantOfShape", -1.0, "must be >= 0"),
        ("ConstantOfShape", HUGE, "overflowed"),
        ("Expand", -1.0, "must be >= 0"),
        ("Expand", HUGE, "overflowed"),
        ("Range", HUGE, "overflowed"),
        ("Tile", -1.0, "must be non-negative"),
        ("Tile", HUGE, "more than"),
    ],
)
def test_a_size_that_cannot_be_is_refused(
    tmp_path: Path, operator: str, value: float, said: str
) -> None:
    """With the node's name, and without a word of the runtime's about itself."""
    session = opened(tmp_path / "model.onnx", operator)
    with pytest.raises(InputRefused, match=rf"'grow'.*{said}") as refused:
        session.run(images(value))
    assert refused.value.metadata == {"operator": operator, "node": "grow"}
    assert "onnxruntime" not in refused.value.message.lower()
    assert (session.run(images(3.0))[0] == 3.0).all()


@pytest.mark.parametrize("isolation", ["SHARED", "OWN_PROCESS"])
async def test_who_sent_it_is_told_wherever_the_model_runs(tmp_path: Path, isolation: str) -> None:
    """Others in the batch are answered, and a process of its own is the same afterwards."""
    path = tmp_path / "model.onnx"
    path.write_bytes(hostile.sized_by_its_value("Tile"))
    settings = ModelSettings(execution=ExecutionSettings(isolation=Isolation(isolation)))
    session = load(path, settings)
    pids = session.pids if isinstance(session, IsolatedSession) else []
    model = LoadedModel(ModelSource("m", "1", "test", ""), session, settings)

    def ask(value: float) -> Any:
        return model.batcher.submit((images(value)["x"].tobytes(),), 1, ((4,),))

    with pytest.raises(InputRefused, match="'grow'"):
        await ask(-1.0)
    guilty, other = ask(HUGE), ask(2.0)
    with pytest.raises(InputRefused, match="'grow'"):
        await guilty
    batch, first = await other
    assert batch.arrays[0][first, 0] == 2.0
    if isinstance(session, IsolatedSession):
        assert session.pids == pids
    assert model.statistics.failures["INPUT_REFUSED"].count == 2
    await model.close()


@pytest.mark.parametrize(
    "words",
    [
        WORDS + "Conv node. Name:'c' Status Message: CUDNN failure 5000",
        "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : "
        + WORDS[36:]
        + "A node. Name:'' Status Message: ",
        "the library is not there",
    ],
)
def test_what_is_not_its_fault_is_not_said_to_be(words: str) -> None:
    """What the device, or an operator that nobody has written, fails on."""
    error = RuntimeError(words)
    assert run_failure(error) is error


async def test_memory_that_is_not_there_is_no_fault_of_the_service(tmp_path: Path) -> None:
    """Also in the server's process."""
    session = opened(tmp_path / "model.onnx", "Tile")

    class Greedy:
        def run(self, *_: Any) -> Any:
            raise RuntimeError(WORDS + "Tile node. Name:'t' Status Message: std::bad_alloc")

    session._session = Greedy()
    model = LoadedModel(ModelSource("m", "1", "test", ""), session, ModelSettings())
    with pytest.raises(MemoryLimit):
        await model.batcher.submit((images(1.0)["x"].tobytes(),), 1, ((4,),))
    await model.close()
