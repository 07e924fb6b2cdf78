"""Which execution provider models run on: CUDA where a GPU is, else the CPU."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import onnxruntime as ort

log = logging.getLogger(__name__)

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
_DEVICES = Path("/dev")
_GPU_IDLE = (
    "a GPU is there and this onnxruntime was built without CUDA; install onnxruntime-gpu in its "
    "place"
)


def provider() -> tuple[str, str]:
    """The execution provider, and what is to be said of it.

    An onnxruntime without CUDA serves on the CPU beside a GPU, because a machine with a screen
    has one too; but it says so, in the log and in the model's properties.
    """
    if not any(_DEVICES.glob("nvidia[0-9]*")):
        return CPU, ""
    if CUDA in ort.get_available_providers():
        _preload_cuda()
        return CUDA, ""
    return CPU, _GPU_IDLE


@cache
def _preload_cuda() -> None:
    """Loads CUDA and cuDNN from their Python packages, where the system's linker never looks."""
    # Since ONNX Runtime 1.21.
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        preload()
