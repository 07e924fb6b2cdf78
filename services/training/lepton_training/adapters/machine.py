"""What the machine has, as Linux tells it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lepton_training.job_queue import Machine

_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
_GPUS = Path("/proc/driver/nvidia/gpus")


def describe_machine(cores: int, memory_mib: int, gpus: str) -> Machine:
    """What jobs may use: of each what is given, else all that is there.

    Args:
        cores: 0 for all that this process may use.
        memory_mib: 0 for all, or for what this process's control group may use.
        gpus: Names as in CUDA_VISIBLE_DEVICES, ``all`` or ``none``.
    """
    processors = sorted(os.sched_getaffinity(0))
    cores = cores or len(processors)
    return Machine(
        cores=cores,
        memory_mib=memory_mib or _memory_mib(),
        gpus=_gpus(gpus),
        core_ids=tuple(processors[:cores]) if cores <= len(processors) else (),
    )


def _memory_mib() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # no control groups, or "max"
        total = min(total, int(_MEMORY_LIMIT.read_text()))
    return total >> 20


def _gpus(wanted: str) -> tuple[str, ...]:
    if wanted == "none":
        return ()
    if wanted != "all":
        return _names(wanted)
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return _names(os.environ["CUDA_VISIBLE_DEVICES"])
    count = len(list(_GPUS.iterdir())) if _GPUS.is_dir() else 0
    return tuple(str(index) for index in range(count))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
