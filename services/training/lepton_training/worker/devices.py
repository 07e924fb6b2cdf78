"""Where a recipe's network is trained: on the job's GPU where it asked for one, else on the CPU."""

from __future__ import annotations

import torch

from lepton_mesh.errors import FailedPrecondition

CPU, CUDA = "cpu", "cuda"
"""As PyTorch names them; of several GPUs the first of CUDA_VISIBLE_DEVICES."""


class GpuUnavailable(FailedPrecondition):
    """The job was given a GPU that PyTorch cannot use: it would train on the CPU unseen."""

    reason = "GPU_UNAVAILABLE"


def device_for(gpus: int) -> str:
    """The device of a job that asked for ``gpus``.

    Raises:
        GpuUnavailable: PyTorch sees none.
    """
    if not gpus:
        return CPU
    if torch.cuda.is_available():
        return CUDA
    why = (
        "it is built without CUDA: install one with it"
        if torch.version.cuda is None
        else "its driver is missing or too old, or CUDA_VISIBLE_DEVICES names none"
    )
    raise GpuUnavailable(
        f"the job asked for {gpus} GPU{'s' * (gpus > 1)}, and PyTorch {torch.__version__} sees "
        f"none: {why}; or set resources.gpus to 0"
    )
