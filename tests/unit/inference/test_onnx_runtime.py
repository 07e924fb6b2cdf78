"""Loading: what is refused, and what is found out about a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bench.memory_return import layers, resident_mb
from lepton_inference import reports
from lepton_inference.adapters import devices as device_module
from lepton_inference.adapters import measurement, onnx_session
from lepton_inference.adapters.onnx_runtime import examine, load
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.model_errors import ModelInvalid, ProviderMissing
from lepton_inference.settings import BatchingSettings, EndpointInvalid, ModelSettings
from tests.inference_models import (
    across_rows,
    bfloat16_and_text,
    identity,
    linear,
    with_external_weights,
)
from tests.unit.inference.test_asgi import HeldSession


def file(directory: Path, content: bytes) -> Path:
    path = directory / "model.onnx"
    path.write_bytes(content)
    return path


def test_a_small_model_runs_inline(tmp_path: Path) -> None:
    """Its rows are found independent, its signature read, its provider named."""
    session = load(file(tmp_path, linear(1.0)), ModelSettings())
    assert session.signature.batched
    assert session.signature.inputs[0].shape == (-1, 4)
    assert session.placement.inline_rows == ModelSettings().batching.max_rows
    assert session.placement.provider == "CPUExecutionProvider"


def test_rows_that_see_each_other_do_not_share_a_batch(tmp_path: Path) -> None:
    """A model that centres over the batch would answer one caller with another's data."""
    assert not load(file(tmp_path, across_rows()), ModelSettings()).signature.batched


def test_lengths_that_requests_choose_keep_a_model_off_the_loop(tmp_path: Path) -> None:
    """What was measured at one length says nothing of another."""
    model = identity(onnx.TensorProto.FLOAT, ["batch", "length"])
    assert load(file(tmp_path, model), ModelSettings()).placement.inline_rows == 0


@pytest.mark.parametrize(("ran", "disturbed"), [(0.95, False), (0.5, True)])
def test_a_measurement_knows_whether_it_was_disturbed(
    monkeypatch: pytest.MonkeyPatch, ran: float, disturbed: bool
) -> None:
    """By what the process ran of the time that went by."""
    clocks = {"perf_counter": iter([5.0, 6.0]), "process_time": iter([2.0, 2.0 + ran])}
    for name, times in clocks.items():
        monkeypatch.setattr(measurement.time, name, lambda times=times: next(times))
    with measurement.CoreShare() as share:
        pass
    assert share.disturbed is disturbed


@pytest.mark.parametrize(
    ("seconds_of_a_row", "fixed_seconds", "most", "enough"),
    [
        (0.04, 0.0, 64, 1),  # a large network, busy with a single row
        (50e-6, 0.0, 64, 16),
        (1e-6, 0.0, 64, 64),  # next to nothing: what a batch costs by itself is shared out
        (1e-6, 0.0, 24, 24),
        (0.001, 0.1, 8, 8),  # a device that takes as long for one row as for many
        (0.0, 0.3, 64, 1),  # too long for a longer one to be tried
    ],
)
def test_rows_are_enough_once_more_give_nothing(
    monkeypatch: pytest.MonkeyPatch,
    seconds_of_a_row: float,
    fixed_seconds: float,
    most: int,
    enough: int,
) -> None:
    """A batch grows for as long as twice the rows give five percent more a second."""
    monkeypatch.setattr(
        measurement,
        "batch_seconds",
        lambda _session, _signature, rows: fixed_seconds + rows * seconds_of_a_row,
    )
    signature = HeldSession.signature
    assert measurement.enough_rows(None, signature, most) == enough


def test_padding_needs_a_free_dimension(tmp_path: Path) -> None:
    """A setting that this model makes meaningless is refused when it is loaded."""
    settings = ModelSettings(BatchingSettings(pad_ragged=True))
    with pytest.raises(EndpointInvalid, match="pad_ragged"):
        load(file(tmp_path, linear(1.0)), settings)


def test_a_fixed_first_dimension_is_no_batch(tmp_path: Path) -> None:
    """It takes the shape it says, and nothing is put together."""
    model = file(tmp_path, identity(onnx.TensorProto.FLOAT, [2, 2]))
    signature = load(model, ModelSettings()).signature
    assert not signature.batched
    assert signature.inputs[0].shape == (2, 2)


def test_weights_beside_the_model_are_taken(tmp_path: Path) -> None:
    """External data as such is no fault."""
    (tmp_path / "weights.bin").write_bytes(np.ones((4, 3), np.float32).tobytes())
    session = load(file(tmp_path, with_external_weights("weights.bin")), ModelSettings())
    (scores,) = session.run({"image": np.ones((1, 4), np.float32)})
    assert scores.tolist() == [[4.0, 4.0, 4.0]]


def test_text_beside_bf16_is_refused_before_it_is_served(tmp_path: Path) -> None:
    """ONNX Runtime takes either, and every request would fail."""
    with pytest.raises(ModelInvalid, match="BYTES and has BF16"):
        load(file(tmp_path, bfloat16_and_text()), ModelSettings())


def test_a_datatype_that_the_protocol_lacks_is_refused(tmp_path: Path) -> None:
    """The tensor and its type are named."""
    with pytest.raises(ModelInvalid, match="complex64"):
        load(file(tmp_path, identity(onnx.TensorProto.COMPLEX64, ["batch", 2])), ModelSettings())


async def test_unloading_gives_memory_back(tmp_path: Path) -> None:
    """To the system: tensors of this size stay in the allocator's hands otherwise."""
    session = load(file(tmp_path, layers(256, 160)), ModelSettings())
    loaded = resident_mb()
    session.close()
    assert loaded - resident_mb() > 0.8 * 160 * 256 * 256 * 4 / 1e6


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class FakeRuntime:
    """ONNX Runtime as it is here, but with the providers that a test says."""

    def __init__(self, available: list[str], loaded: list[str]) -> None:
        self._available = available
        self._loaded = loaded
        self.asked: list[list[Any]] = []
        self.preloads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(ort, name)

    def get_available_providers(self) -> list[str]:
        return self._available

    def preload_dlls(self) -> None:
        assert not self.asked, "the libraries are wanted before the first session"
        self.preloads += 1

    def InferenceSession(self, path: str, options: Any, providers: list[str]) -> Any:
        self.asked.append(providers)
        session = ort.InferenceSession(path, options, providers=[CPU])
        session.get_providers = lambda: self._loaded
        return session


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /dev."""
    folder = tmp_path / "dev"
    folder.mkdir()
    monkeypatch.setattr(device_module, "_DEVICES", folder)
    device_module._preload_cuda.cache_clear()
    return folder


def use(runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (device_module, onnx_session):
        monkeypatch.setattr(module, "ort", runtime)


async def test_a_gpu_without_cuda_in_onnxruntime_is_said(
    tmp_path: Path, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Served on the CPU, with the reason in what clients can read."""
    (devices / "nvidia3").touch()
    use(FakeRuntime([CPU], [CPU]), monkeypatch)
    session = examine(file(tmp_path, linear(1.0)), ModelSettings())
    assert session.placement.provider == CPU
    model = LoadedModel(ModelSource("m", "1", "test", ""), session, ModelSettings())
    assert "onnxruntime-gpu" in reports.properties(model)["execution_note"]
    assert reports.config(model).parameters["execution_note"].string_value
    await model.close()


def test_a_gpu_is_used_after_its_libraries_were_loaded(
    tmp_path: Path, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its number, and the libraries once for all models."""
    (devices / "nvidia7").touch()
    runtime = FakeRuntime([CUDA, CPU], [CUDA, CPU])
    use(runtime, monkeypatch)
    session = examine(file(tmp_path, linear(1.0)), ModelSettings())
    assert (session.placement.provider, session.placement.note) == (CUDA, "")
    assert runtime.asked[0] == [(CUDA, {"device_id": 0}), CPU]
    runtime.asked.clear()
    examine(file(tmp_path, linear(1.0)), ModelSettings())
    assert runtime.preloads == 1


def test_cuda_that_does_not_load_is_refused(
    tmp_path: Path, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu falls back to the CPU without a word; this does not."""
    (devices / "nvidia0").touch()
    use(FakeRuntime([CUDA, CPU], [CPU]), monkeypatch)
    with pytest.raises(ProviderMissing, match="cuDNN"):
        examine(file(tmp_path, linear(1.0)), ModelSettings())


def test_control_devices_are_no_gpu(
    tmp_path: Path, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nvidiactl is there as soon as the driver is."""
    (devices / "nvidiactl").touch()
    use(FakeRuntime([CUDA, CPU], [CUDA, CPU]), monkeypatch)
    assert examine(file(tmp_path, linear(1.0)), ModelSettings()).placement.provider == CPU
