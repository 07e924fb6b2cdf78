"""What a process that runs a model may take of this machine, and what it gives back.

Memory is bounded with RLIMIT_DATA, which since Linux 4.7 counts every private writable mapping,
so that an allocation beyond it fails there and then: ONNX Runtime answers with an error and the
process lives. A watchdog of resident memory would come late for a model that asks for 100 GiB
at once, and RLIMIT_AS counts what is only reserved, or mapped from files: libraries, and all of
a GPU's address space.

Memory that is shared, or a file in memory (memfd), is no private mapping and escapes that limit.
What such a file has is bounded with RLIMIT_FSIZE, by the same number of bytes: the one that outputs
leave in is legitimate, and holds no more than was there as private memory before. Beyond, writing
and ftruncate fail with EFBIG, as Python has the signal SIGXFSZ ignored.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
from collections.abc import Callable
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")
_LIBC = ctypes.CDLL(None)
_SHARE = 0.9
"""Of what is free that a model may take unless something else is said."""


def available_bytes() -> int:
    """Memory that may be taken without pushing anybody out: of the machine, and of the cgroup."""
    free = _kib(_MEMINFO, "MemAvailable") << 10
    with contextlib.suppress(OSError, ValueError):  # no limit, no cgroup v2, or not its root
        limit = int((_CGROUP / "memory.max").read_text())
        free = min(free, limit - int((_CGROUP / "memory.current").read_text()))
    return max(free, 0)


def bound_this_process(memory_bytes: int, *, limited: bool = True) -> None:
    """Lets this process take so many bytes more than it has; 0 for most of what is free.

    As many at most for each file that it makes or enlarges, those in memory among them.

    Leaves no core file either, and offers the process first when the kernel needs a victim. Where
    it is not to be ``limited``, that is all.
    """
    if limited:
        more = memory_bytes or int(available_bytes() * _SHARE)
        limit = (_kib(_STATUS, "VmData") << 10) + more
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        _lower(resource.RLIMIT_FSIZE, more)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _lower(limit: int, value: int) -> None:
    """Lowers a limit of this process; one that is lower already stays."""
    _, most = resource.getrlimit(limit)
    if most != resource.RLIM_INFINITY:
        value = min(value, most)
    resource.setrlimit(limit, (value, value))


def peak_bytes(run: Callable[[], object]) -> int:
    """The resident memory that this process had at most while it ran, beyond what it had before."""
    before = _kib(_STATUS, "VmRSS")
    with contextlib.suppress(OSError):  # then it is the most that the process ever had
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, proc(5)
    run()
    return (_kib(_STATUS, "VmHWM") - before) << 10


def return_free_memory() -> None:
    """Gives the system what the allocator keeps for later; of a model, that may be all of it."""
    trim = getattr(_LIBC, "malloc_trim", None)  # glibc has it, musl does not
    if trim is not None:
        trim(0)


def _kib(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise ValueError(f"{file} says nothing of {name}")
