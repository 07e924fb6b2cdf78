"""What ONNX Runtime is asked for on GPUs, by a stand-in that computes on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bench import gpu
from lepton_inference.adapters import devices, gpu_session, onnx_runtime, onnx_session
from lepton_inference.adapters.devices import CPU, CUDA, TENSORRT
from lepton_inference.adapters.gpu_session import GpuSession, PinnedFeeds
from lepton_inference.adapters.onnx_runtime import examine, reopen
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.model_errors import ProviderMissing
from lepton_inference.reports import config
from lepton_inference.settings import (
    BatchingSettings,
    EndpointInvalid,
    ExecutionSettings,
    ModelSettings,
)
from tests.inference_models import identity, linear


class Value:
    """An OrtValue: an array, and where it is said to be."""

    def __init__(self, shape: Sequence[int], kind: Any, place: object) -> None:
        self.array = np.zeros(shape, kind)
        self.place = place

    def numpy(self) -> Any:
        # As from a GPU: another array each time, but not from page-locked memory.
        return self.array if self.place == "pinned" else self.array.copy()

    def update_inplace(self, array: Any) -> None:
        assert array.shape == self.array.shape
        self.array[...] = array


class Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Value] = {}
        self.host_outputs: list[str] = []
        self.results: list[Any] = []

    def bind_cpu_input(self, name: str, array: Any) -> None:
        self.inputs[name] = array

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.inputs[name] = value

    def bind_output(self, name: str) -> None:
        self.host_outputs.append(name)

    def bind_ortvalue_output(self, name: str, value: Value) -> None:
        self.outputs[name] = value

    def copy_outputs_to_cpu(self) -> list[Any]:
        return self.results


class Session:
    """Computes on the CPU what it is told to compute on a GPU."""

    def __init__(self, runtime: Runtime, path: str, options: Any, providers: list[Any]) -> None:
        self.runtime = runtime
        self.providers = providers
        self._names = [each if isinstance(each, str) else each[0] for each in providers]
        self._session = ort.InferenceSession(path, options, providers=[CPU])
        self.bindings: list[Binding] = []
        self.graphs: list[tuple[int, int]] = []
        """Of each run: the graph's id and the binding's."""
        self.threads: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return [name for name in self._names if name not in self.runtime.broken]

    def io_binding(self) -> Binding:
        self.bindings.append(Binding())
        return self.bindings[-1]

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        self.threads.add(threading.get_ident())
        feeds = {
            name: value.array if isinstance(value, Value) else value
            for name, value in binding.inputs.items()
        }
        binding.results = self._session.run(None, feeds)
        for value, result in zip(binding.outputs.values(), binding.results, strict=False):
            value.update_inplace(result)
        if options is not None:
            graph = int(options.get_run_config_entry("gpu_graph_id"))
            self.graphs.append((graph, id(binding)))


class Runtime:
    """ONNX Runtime on a machine with GPUs."""

    def __init__(self, available: Sequence[str] = (CUDA, CPU), *, pinned: bool = False) -> None:
        self._available = list(available)
        self.broken: set[str] = set()
        self.opened: list[Session] = []
        self.OrtValue = SimpleNamespace(ortvalue_from_shape_and_type=self._value)
        self._pinned = pinned

    def __getattr__(self, name: str) -> Any:
        return getattr(ort, name)

    def get_available_providers(self) -> list[str]:
        return self._available

    def preload_dlls(self) -> None: ...

    def get_ep_devices(self) -> list[Any]:
        device = SimpleNamespace(ep_name=CUDA, memory_info=lambda kind: "pinned")
        return [device] if self._pinned else []

    def InferenceSession(self, path: str, options: Any, providers: list[Any]) -> Session:
        self.opened.append(Session(self, path, options, providers))
        return self.opened[-1]

    def _value(
        self,
        shape: Sequence[int],
        kind: Any,
        device: str = "cpu",
        number: int = 0,
        memory_info: object = None,
    ) -> Value:
        return Value(shape, kind, memory_info or (device, number))


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a machine: how many GPUs, and which ONNX Runtime."""

    def make(count: int, runtime: Runtime) -> Runtime:
        folder = tmp_path / "dev"
        folder.mkdir()
        for number in range(count):
            (folder / f"nvidia{number}").touch()
        monkeypatch.setattr(devices, "_DEVICES", folder)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        devices._preload_cuda.cache_clear()
        for module in (devices, gpu_session, onnx_session, onnx_runtime):
            monkeypatch.setattr(module, "ort", runtime)
        return runtime

    return make


def settings(*, rows: int = 8, preferred: tuple[int, ...] = (), **execution: Any) -> ModelSettings:
    batching = BatchingSettings(max_rows=rows, preferred_rows=preferred)
    return ModelSettings(batching, ExecutionSettings(**execution))


def served(folder: Path, wanted: ModelSettings, content: bytes | None = None) -> GpuSession:
    path = folder / "model.onnx"
    path.write_bytes(content or linear(1.0))
    tried = examine(path, wanted)
    found = tried.signature, tried.placement
    session = reopen(path, wanted, found, range(wanted.execution.instances))
    assert isinstance(session, GpuSession)
    return session


def ask(session: GpuSession, *values: float) -> list[float]:
    columns = [[np.full((1, 4), value, np.float32).tobytes() for value in values]]
    (scores,) = session.run(session.join(columns, len(values), ((4,),)))
    return [float(row[0]) for row in scores]


@pytest.mark.parametrize(
    ("count", "available", "execution", "said"),
    [
        (0, [CPU], {"devices": (0,)}, "devices cannot be had: this machine has no NVIDIA GPU"),
        (0, [CUDA, CPU], {"cuda_graphs": True}, "cuda_graphs cannot be had: this machine has no"),
        (0, [CPU], {"tensorrt": True}, "tensorrt cannot be had: this machine has no NVIDIA GPU"),
        (1, [CPU], {"devices": (0,)}, "onnxruntime-gpu"),
        (2, [CUDA, CPU], {"devices": (2,)}, "has 2 GPUs"),
        (1, [CUDA, CPU], {"tensorrt": True}, "without TensorRT"),
    ],
)
def test_what_a_machine_lacks_is_said(
    gpus: Any, count: int, available: list[str], execution: dict[str, Any], said: str
) -> None:
    """By the name of the setting, and with what is missing."""
    gpus(count, Runtime(available))
    with pytest.raises(ProviderMissing, match=said):
        devices.choose(ExecutionSettings(**execution))


def test_hidden_gpus_are_not_there(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA sees it."""
    gpus(4, Runtime())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert devices.choose(ExecutionSettings(instances=3)).devices == (0, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices.choose(ExecutionSettings()).provider == CPU


def test_instances_are_spread_over_the_gpus(gpus: Any, tmp_path: Path) -> None:
    """Each has a session of its own, with the bound of memory that was set."""
    runtime = gpus(4, Runtime())
    wanted = settings(instances=3, devices=(3, 1), memory_limit_mib=512)
    session = served(tmp_path, wanted)
    assert [each.providers[0] for each in runtime.opened[-3:]] == [
        (CUDA, {"device_id": device, "gpu_mem_limit": 512 << 20}) for device in (3, 1, 3)
    ]
    assert session.placement.devices == (3, 1)
    assert {ask(session, 1.0)[0] for _ in range(3)} == {4.0}
    assert all(each.bindings for each in runtime.opened[-3:])


def test_batches_are_joined_in_page_locked_memory(gpus: Any, tmp_path: Path) -> None:
    """Which is bound as it is, without another copy."""
    runtime = gpus(1, Runtime(pinned=True))
    session = served(tmp_path, settings())
    columns = [[np.full((rows, 4), rows, np.float32).tobytes() for rows in (1, 2)]]
    feeds = session.join(columns, 3, ((4,),))
    assert isinstance(feeds, PinnedFeeds)
    (scores,) = session.run(feeds)
    assert scores[:, 0].tolist() == [4.0, 8.0, 8.0]
    (bound,) = runtime.opened[-1].bindings[-1].inputs.values()
    assert bound.place == "pinned"
    assert bound.array is feeds["image"]


def test_without_page_locked_memory_inputs_are_bound_all_the_same(
    gpus: Any, tmp_path: Path
) -> None:
    """From where they are."""
    runtime = gpus(1, Runtime())
    assert not served(tmp_path, settings()).placement.pinned
    assert ask(served(tmp_path, settings()), 1.0, 2.0) == [4.0, 8.0]
    assert runtime.opened[-1].bindings[-1].host_outputs == ["scores"]


def test_page_locked_memory_that_cannot_be_written_is_left_alone(
    gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs that are copies would never arrive."""
    gpus(1, Runtime(pinned=True))
    monkeypatch.setattr(Value, "numpy", lambda self: self.array.copy())
    session = served(tmp_path, settings())
    assert not session.placement.pinned
    assert ask(session, 1.0) == [4.0]


def test_text_is_not_bound(gpus: Any, tmp_path: Path) -> None:
    """ONNX Runtime binds no strings."""
    runtime = gpus(1, Runtime(pinned=True))
    session = served(tmp_path, settings(), identity(onnx.TensorProto.STRING, ["batch", 1]))
    (told,) = session.run(session.join([[np.array([["ä"]], object)]], 1, ((1,),)))
    assert told.tolist() == [["ä"]]
    assert runtime.opened[-1].bindings == []


@pytest.mark.parametrize(("preferred", "sizes"), [((), [1, 2, 4, 6]), ((3,), [3, 6])])
def test_graphs_are_captured_for_some_sizes(
    gpus: Any, tmp_path: Path, preferred: tuple[int, ...], sizes: list[int]
) -> None:
    """All of them when the model is loaded; a batch between two is padded to the larger."""
    runtime = gpus(1, Runtime())
    session = served(tmp_path, settings(rows=6, preferred=preferred, cuda_graphs=True))
    opened = runtime.opened[-1]
    assert opened.providers[0] == (CUDA, {"device_id": 0, "enable_cuda_graph": "1"})
    captured = dict(opened.graphs)
    assert list(captured) == sizes
    assert ask(session, *range(5)) == [0.0, 4.0, 8.0, 12.0, 16.0]
    assert ask(session, 1.0, 2.0, 3.0) == [4.0, 8.0, 12.0]
    assert opened.graphs[len(sizes) :] == [
        (size, captured[size]) for size in (6, 3 if preferred else 4)
    ]
    assert len(opened.threads) == 1
    assert threading.get_ident() not in opened.threads
    session.close()


@pytest.mark.parametrize(
    "content",
    [
        identity(onnx.TensorProto.FLOAT, ["batch", "length"]),
        identity(onnx.TensorProto.STRING, ["batch", 1]),
    ],
)
def test_graphs_need_fixed_shapes(gpus: Any, tmp_path: Path, content: bytes) -> None:
    """The tensor is named."""
    gpus(1, Runtime())
    with pytest.raises(EndpointInvalid, match=r"cuda_graphs.*'x'"):
        served(tmp_path, settings(cuda_graphs=True), content)


def test_tensorrt_compiles_once_for_all_batches(gpus: Any, tmp_path: Path) -> None:
    """One engine for every size, kept beside the model."""
    runtime = gpus(2, Runtime([TENSORRT, CUDA, CPU]))
    session = served(tmp_path, settings(rows=8, tensorrt=True, devices=(1,)))
    (first, options), second, third = runtime.opened[-1].providers
    assert (first, second, third) == (TENSORRT, (CUDA, {"device_id": 1}), CPU)
    assert options["device_id"] == 1
    assert options["trt_engine_cache_path"] == str(tmp_path / "tensorrt")
    assert options["trt_profile_min_shapes"] == "image:1x4"
    assert options["trt_profile_max_shapes"] == "image:8x4"
    assert session.placement.provider == TENSORRT


def test_tensorrt_that_does_not_load_is_refused(gpus: Any, tmp_path: Path) -> None:
    """ONNX Runtime would go on with CUDA, and say nothing."""
    runtime = gpus(1, Runtime([TENSORRT, CUDA, CPU]))
    runtime.broken = {TENSORRT}
    with pytest.raises(ProviderMissing, match="TensorRT"):
        served(tmp_path, settings(tensorrt=True))


async def test_the_configuration_tells_of_gpus(gpus: Any, tmp_path: Path) -> None:
    """In Triton's terms."""
    gpus(2, Runtime([TENSORRT, CUDA, CPU], pinned=True))
    wanted = settings(rows=2, instances=2, cuda_graphs=True, tensorrt=True)
    session = served(tmp_path, wanted)
    model = LoadedModel(ModelSource("m", "1", "test", ""), session, wanted)
    told = config(model)
    (group,) = told.instance_group
    assert (group.kind, list(group.gpus), group.count) == (group.KIND_GPU, [0, 1], 2)
    optimization = told.optimization
    assert optimization.cuda.graphs
    assert optimization.input_pinned_memory.enable
    assert [spec.batch_size for spec in optimization.cuda.graph_spec] == [1, 2]
    (accelerator,) = optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert told.parameters["execution_provider"].string_value == TENSORRT
    await model.close()


def test_the_benchmark_says_what_is_missing(
    gpus: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And ends with 2, which is not a failure."""
    gpus(0, Runtime([CPU]))
    monkeypatch.setattr("sys.argv", ["bench.gpu"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err
