"""Memory of NVIDIA GPUs that other processes lend, through CUDA's inter-process handles.

Called through ctypes, so that nothing of CUDA need be installed where there is no GPU: the
runtime library opens and copies, the driver's tells how long an allocation is, which a handle
does not and a caller may lie about. (CUDA Runtime API: cudaIpcOpenMemHandle, cudaIpcCloseMemHandle,
cudaMemcpy; CUDA Driver API: cuMemGetAddressRange.)
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from lepton_inference.shared_memory import SharedMemoryRange
from lepton_inference.tensors import Buffer
from lepton_mesh.errors import FailedPrecondition, Internal, InvalidArgument

HANDLE_BYTES = 64
"""CUDA_IPC_HANDLE_SIZE."""

_LAZY_PEER_ACCESS = 1  # cudaIpcMemLazyEnablePeerAccess, the only flag there is
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_RUNTIMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_DRIVER = "libcuda.so.1"


class CudaMissing(FailedPrecondition):
    """This machine has no GPU, or not the libraries for one."""

    reason = "CUDA_MISSING"


class CudaHandleInvalid(InvalidArgument):
    """What a caller says of a GPU's memory is not so."""

    reason = "CUDA_HANDLE_INVALID"


class CudaCopyFailed(Internal):
    reason = "CUDA_COPY_FAILED"


class _Handle(ctypes.Structure):
    """cudaIpcMemHandle_t, which is passed by value."""

    _fields_ = (("reserved", ctypes.c_char * HANDLE_BYTES),)


class CudaDevices:
    """Opens handles. The libraries are looked for once, when they are first asked for.

    Args:
        load: Gives the library of a name; raises OSError where there is none.
    """

    def __init__(self, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._found: _Libraries | None = None
        self._missing = ""

    @property
    def usable(self) -> bool:
        """Whether there is a GPU and its libraries."""
        return self._libraries() is not None

    def open(self, handle: bytes, device: int) -> CudaObject:
        """See CudaMemory."""
        libraries = self._libraries()
        if libraries is None:
            raise CudaMissing(
                f"this server cannot use a GPU's memory: {self._missing}; use system shared "
                "memory, or send tensors in the message"
            )
        if len(handle) != HANDLE_BYTES:
            raise CudaHandleInvalid(
                f"the handle has {len(handle)} bytes; cudaIpcMemHandle_t has {HANDLE_BYTES}",
                field="raw_handle",
            )
        if not 0 <= device < libraries.devices:
            raise CudaHandleInvalid(
                f"there is no GPU {device} here; they are numbered 0 to {libraries.devices - 1}",
                field="device_id",
            )
        return CudaObject(libraries, handle, device)

    def _libraries(self) -> _Libraries | None:
        with self._lock:
            if self._found is None and not self._missing:
                try:
                    self._found = _Libraries(self._load)
                except CudaMissing as error:
                    self._missing = error.message
            return self._found


class CudaObject:
    """One allocation of another process. Copies take their turns, and none outlives it."""

    quick = False
    """See SharedObject."""

    def __init__(self, libraries: _Libraries, handle: bytes, device: int) -> None:
        self._libraries = libraries
        self._device = device
        self._lock = threading.Lock()
        self._handle = handle
        self._closing = False
        pointer = libraries.open(handle, device)
        if pointer is None:
            raise self.absent()
        self._pointer: int | None = pointer
        self._length = libraries.length(pointer)

    @property
    def identity(self) -> object:
        """See SharedObject."""
        return self._device, self._handle

    def present(self) -> bool:
        """See SharedObject. CUDA keeps an opened allocation until it is closed here too."""
        return self._pointer is not None

    def require(self, end: int) -> None:
        """See SharedObject."""
        if end > self._length:
            raise SharedMemoryRange(
                f"the GPU's memory has {self._length} bytes from where the handle points, and "
                f"{end} are needed",
                bytes=self._length,
                expected=end,
            )

    def read(self, offset: int, size: int) -> memoryview:
        """See SharedObject."""
        content = np.empty(size, np.uint8)
        self._copy(offset, content, _TO_HOST)
        return content.data

    def write(self, offset: int, data: Buffer) -> None:
        """See SharedObject."""
        self._copy(offset, np.frombuffer(data, np.uint8), _TO_DEVICE)

    def absent(self) -> CudaHandleInvalid:
        """See SharedObject."""
        return CudaHandleInvalid(
            "the handle does not open: give that of a cudaMalloc of a process that runs still, on "
            "this machine and that GPU",
            field="raw_handle",
        )

    def close(self) -> None:
        """See SharedObject. Where a copy runs, its end closes."""
        self._closing = True
        if not self._lock.acquire(blocking=False):
            return
        try:
            pointer, self._pointer = self._pointer, None
            if pointer is not None:
                self._libraries.close(pointer, self._device)
        finally:
            self._lock.release()

    def _copy(self, offset: int, host: np.ndarray[Any, Any], kind: int) -> None:
        try:
            with self._lock:
                if self._pointer is None:
                    raise self.absent()
                self._libraries.copy(self._pointer + offset, host, kind, self._device)
        finally:
            if self._closing:
                self.close()


class _Libraries:
    """The functions that are used, of the runtime's library and the driver's.

    Raises:
        CudaMissing: A library is missing, or there is no GPU.
    """

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._runtime = _first(load, _RUNTIMES, "CUDA's runtime library (libcudart)")
        self._driver = _first(load, (_DRIVER,), "the NVIDIA driver's library (libcuda)")
        count = ctypes.c_int()
        status = self._runtime.cudaGetDeviceCount(ctypes.byref(count))
        if status or not count.value:
            raise CudaMissing(f"there is no NVIDIA GPU that works ({self._words(status)})")
        self.devices: int = count.value

    def open(self, handle: bytes, device: int) -> int | None:
        """Where the memory begins; None if the handle does not open."""
        pointer = ctypes.c_void_p()
        if self._runtime.cudaSetDevice(device) or self._runtime.cudaIpcOpenMemHandle(
            ctypes.byref(pointer),
            _Handle.from_buffer_copy(handle),
            ctypes.c_uint(_LAZY_PEER_ACCESS),
        ):
            self._runtime.cudaGetLastError()  # or the next call would tell of it again
            return None
        return pointer.value

    def length(self, pointer: int) -> int:
        """The bytes of the allocation from ``pointer`` to its end; 0 if it is none."""
        base, size = ctypes.c_void_p(), ctypes.c_size_t()
        if self._driver.cuMemGetAddressRange_v2(
            ctypes.byref(base), ctypes.byref(size), ctypes.c_void_p(pointer)
        ):
            return 0
        return (base.value or 0) + size.value - pointer

    def copy(self, pointer: int, host: np.ndarray[Any, Any], kind: int, device: int) -> None:
        """Copies all of ``host`` to or from the GPU; raises CudaCopyFailed."""
        there, here = ctypes.c_void_p(pointer), ctypes.c_void_p(host.ctypes.data)
        to, of = (there, here) if kind == _TO_DEVICE else (here, there)
        status = self._runtime.cudaSetDevice(device) or self._runtime.cudaMemcpy(
            to, of, ctypes.c_size_t(host.nbytes), ctypes.c_int(kind)
        )
        if status:
            self._runtime.cudaGetLastError()
            raise CudaCopyFailed(f"GPU {device} did not copy a tensor: {self._words(status)}")

    def close(self, pointer: int, device: int) -> None:
        """Lets go of what :meth:`open` gave."""
        self._runtime.cudaSetDevice(device)
        self._runtime.cudaIpcCloseMemHandle(ctypes.c_void_p(pointer))

    def _words(self, status: int) -> str:
        say = self._runtime.cudaGetErrorString
        say.restype = ctypes.c_char_p
        return (say(ctypes.c_int(status)) or b"").decode()


def _first(load: Callable[[str], Any], names: tuple[str, ...], what: str) -> Any:
    for name in names:
        try:
            return load(name)
        except OSError:
            continue
    raise CudaMissing(f"{what} is not here")
