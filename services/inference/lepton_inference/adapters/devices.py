"""What models run on: the CPU, or a GPU by CUDA and, where asked for, TensorRT.

What an endpoint asks for and this machine does not have is refused, with what is missing. Nothing
falls back to something slower without a word.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime as ort

from lepton_inference.model_errors import ProviderMissing
from lepton_inference.placement import Placement
from lepton_inference.settings import ExecutionSettings, ModelSettings
from lepton_inference.signature import Signature

TENSORRT = "TensorrtExecutionProvider"
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
_DEVICES = Path("/dev")
_GPU_IDLE = (
    "a GPU is there and this onnxruntime was built without CUDA; install onnxruntime-gpu in its "
    "place"
)

Providers = list[str | tuple[str, dict[str, Any]]]
"""Execution providers in order of preference, as ONNX Runtime takes them."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a model is to run on."""

    provider: str
    devices: tuple[int, ...] = ()
    """GPUs, as CUDA counts them; instance ``i`` runs on ``devices[i % len(devices)]``."""
    note: str = ""
    """What of the machine is left unused, and what to do about it; "" for nothing."""


def choose(execution: ExecutionSettings) -> Chosen:
    """What a model runs on here: the GPUs asked for, else those there are, else the CPU.

    An onnxruntime without CUDA serves on the CPU beside a GPU, because a machine with a screen
    has one too; but it says so, in the log and in the model's properties.

    Raises:
        ProviderMissing: Something is asked for that this machine does not have.
    """
    asked = [name for name in ("devices", "cuda_graphs", "tensorrt") if getattr(execution, name)]
    there = _gpus()
    missing = ""
    if asked and not there:
        missing = "this machine has no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it"
    elif asked and CUDA not in ort.get_available_providers():
        missing = _GPU_IDLE
    elif any(device >= there for device in execution.devices):
        missing = f"this machine has {there} GPUs; the first is 0"
    elif execution.tensorrt and TENSORRT not in ort.get_available_providers():
        missing = "this onnxruntime was built without TensorRT; install onnxruntime-gpu"
    if missing:
        raise ProviderMissing(f"execution.{asked[0]} cannot be had: {missing}", field=asked[0])
    if not there:
        return Chosen(CPU)
    if CUDA not in ort.get_available_providers():
        return Chosen(CPU, note=_GPU_IDLE)
    _preload_cuda()
    devices = execution.devices or tuple(range(min(there, execution.instances)))
    return Chosen(TENSORRT if execution.tensorrt else CUDA, devices)


def providers(
    path: Path, settings: ModelSettings, signature: Signature, placement: Placement, instance: int
) -> Providers:
    """What an instance of a model that was tried is opened with."""
    execution = settings.execution
    if not placement.devices:
        return [CPU]
    device = placement.devices[instance % len(placement.devices)]
    found = cuda(device, execution)
    graphs = execution.cuda_graphs
    if not execution.tensorrt:
        if graphs:
            found[0][1]["enable_cuda_graph"] = "1"
        return [*found, CPU]
    folder = path.parent / "tensorrt"
    options: dict[str, Any] = {
        "device_id": device,
        "trt_engine_cache_enable": True,
        # Beside the model, whose digest the folder is named by: they go together.
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
        "trt_cuda_graph_enable": graphs,
        **_profile(signature, settings.batching.max_rows),
    }
    return [(TENSORRT, options), *found, CPU]


def cuda(device: int, execution: ExecutionSettings) -> list[tuple[str, dict[str, Any]]]:
    """The CUDA execution provider on one GPU."""
    options: dict[str, Any] = {"device_id": device}
    if execution.memory_limit_mib:
        options["gpu_mem_limit"] = execution.memory_limit_mib << 20
    return [(CUDA, options)]


def _profile(signature: Signature, max_rows: int) -> dict[str, str]:
    """The shapes that TensorRT is to build one engine for, rather than one whenever they grow."""
    if signature.ragged:
        return {}

    def shapes(rows: int) -> str:
        return ",".join(
            f"{spec.name}:" + "x".join(str(dim) for dim in (rows, *spec.shape[1:]))
            for spec in signature.inputs
        )

    if not signature.batched:
        return {}
    return {
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(max(1, max_rows // 2)),
        "trt_profile_max_shapes": shapes(max_rows),
    }


def _gpus() -> int:
    """How many GPUs CUDA shows to this process."""
    there = len(list(_DEVICES.glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    return min(there, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))


@cache
def _preload_cuda() -> None:
    """Loads CUDA and cuDNN from their Python packages, where the system's linker never looks."""
    # Since ONNX Runtime 1.21.
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        preload()


def graph_rows(preferred: Sequence[int], max_rows: int) -> tuple[int, ...]:
    """The sizes of batch that a CUDA graph is captured for; others are padded to the next.

    Preferred sizes, else powers of two, and the largest that there may be.
    """
    sizes = set(preferred) or {1 << power for power in range(max_rows.bit_length())}
    return tuple(sorted({*sizes, max_rows}))
