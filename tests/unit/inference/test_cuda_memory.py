"""A GPU's memory, over libraries that are played: what is called, and with what.

No test here has a GPU; what is proven is the use of CUDA's functions as they are documented.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from typing import Any

import pytest

from lepton_inference.adapters.cuda_memory import (
    CudaCopyFailed,
    CudaDevices,
    CudaHandleInvalid,
    CudaMissing,
)
from lepton_inference.parameters import SharedPart
from lepton_inference.shared_memory import Kind, RegionExists, SharedMemory, SharedMemoryRange
from tests.unit.inference.test_shared_memory import ADA, BOB, PosixSharedMemory

HANDLE = bytes(range(64))
SIZE = 1024
_INVALID = 1


class Gpu:
    """Both libraries at once, and one allocation, which is memory of this process."""

    def __init__(self, devices: int = 2) -> None:
        self.devices = devices
        self.memory = ctypes.create_string_buffer(SIZE)
        self.calls: list[str] = []
        self.device = -1
        self.opened = 0
        self.copying = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.copy_status = 0
        self.opening = threading.Event()
        self.open_now = threading.Event()
        self.open_now.set()
        self.closed = threading.Event()
        self.words = Words()

    @property
    def cudaGetErrorString(self) -> Words:
        return self.words

    def cudaGetDeviceCount(self, count: Any) -> int:
        count._obj.value = self.devices
        return 0 if self.devices else 100

    def cudaSetDevice(self, device: int) -> int:
        self.device = device
        return 0

    def cudaGetLastError(self) -> int:
        self.calls.append("forgiven")
        return 0

    def cudaIpcOpenMemHandle(self, pointer: Any, handle: Any, flags: Any) -> int:
        if bytes(handle) != HANDLE or flags.value != 1:
            return _INVALID
        self.opening.set()
        assert self.open_now.wait(5)
        pointer._obj.value = ctypes.addressof(self.memory)
        self.opened += 1
        return 0

    def cudaIpcCloseMemHandle(self, pointer: Any) -> int:
        assert pointer.value == ctypes.addressof(self.memory)
        self.opened -= 1
        self.closed.set()
        return 0

    def cuMemGetAddressRange_v2(self, base: Any, size: Any, pointer: Any) -> int:
        base._obj.value, size._obj.value = ctypes.addressof(self.memory), SIZE
        return 0

    def cudaMemcpy(self, to: Any, of: Any, size: Any, kind: Any) -> int:
        assert self.opened
        self.copying.set()
        assert self.go_on.wait(5)
        on_device = to if kind.value == 1 else of
        assert 0 <= on_device.value - ctypes.addressof(self.memory) <= SIZE - size.value
        if not self.copy_status:
            ctypes.memmove(to, of, size.value)
        return self.copy_status


class Words:
    """cudaGetErrorString, which is told what it returns."""

    restype: Any = None

    def __call__(self, status: Any) -> bytes:
        assert self.restype is ctypes.c_char_p
        return b"out of luck"


def devices(gpu: Gpu) -> CudaDevices:
    return CudaDevices(lambda _: gpu)


async def test_tensors_come_from_the_gpu_and_go_there() -> None:
    """To and from the place that is meant, on the GPU that is meant."""
    gpu = Gpu()
    memory = devices(gpu).open(HANDLE, 1)
    memory.write(8, b"tensor")
    assert gpu.memory.raw[8:14] == b"tensor"
    assert bytes(memory.read(6, 8)) == b"\0\0tensor"
    assert gpu.device == 1
    memory.close()
    memory.close()
    assert (gpu.opened, memory.present()) == (0, False)
    with pytest.raises(CudaHandleInvalid):
        memory.read(0, 8)


@pytest.mark.parametrize(
    ("handle", "device"), [(HANDLE[:-1], 0), (b"", 0), (bytes(64), 0), (HANDLE, 2), (HANDLE, -1)]
)
def test_what_does_not_open_is_refused(handle: bytes, device: int) -> None:
    """And the runtime is made to forget it, or the next call would fail for it."""
    gpu = Gpu()
    with pytest.raises(CudaHandleInvalid):
        devices(gpu).open(handle, device)
    assert gpu.opened == 0
    assert gpu.calls == (["forgiven"] if handle == bytes(64) else [])


async def test_a_length_that_a_caller_lies_about_is_found_out() -> None:
    """The driver says how long the allocation is; the handle is closed again."""
    gpu = Gpu()
    memory = SharedMemory(PosixSharedMemory(), devices(gpu))
    with pytest.raises(SharedMemoryRange, match="1024 bytes from where the handle points"):
        await memory.register_cuda(ADA, "x", HANDLE, 0, SIZE + 1)
    assert (gpu.opened, memory.status(ADA, Kind.CUDA)) == (0, [])


async def test_regions_on_gpus_are_regions() -> None:
    """One owner, one namespace with the others, closed when unregistered."""
    gpu = Gpu()
    memory = SharedMemory(PosixSharedMemory(), devices(gpu), wall=lambda: 0.0)
    assert "cuda_shared_memory" in memory.extensions
    await memory.register_cuda(ADA, "x", HANDLE, 1, SIZE)
    with pytest.raises(RegionExists):
        await memory.register_cuda(ADA, "x", HANDLE, 1, SIZE)
    with pytest.raises(CudaHandleInvalid):
        await memory.register_cuda(BOB, "mine", HANDLE, 1, SIZE)
    (region,) = memory.status(ADA, Kind.CUDA)
    assert (region.device, region.size, memory.status(ADA, Kind.SYSTEM)) == (1, SIZE, [])
    assert memory.find(ADA, SharedPart("x", 0, SIZE)) is region
    memory.sweep()
    assert gpu.opened == 1
    memory.unregister(ADA, Kind.CUDA, "x")
    assert gpu.opened == 0


async def test_a_caller_who_goes_leaves_nothing_open() -> None:
    """What was being opened is closed again."""
    gpu = Gpu()
    gpu.open_now.clear()
    memory = SharedMemory(PosixSharedMemory(), devices(gpu))
    registering = asyncio.create_task(memory.register_cuda(ADA, "x", HANDLE, 0, SIZE))
    await asyncio.to_thread(gpu.opening.wait, 5)
    registering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await registering
    gpu.open_now.set()
    await asyncio.to_thread(gpu.closed.wait, 5)
    assert (gpu.opened, memory.status(ADA, Kind.CUDA)) == (0, [])


def test_memory_is_not_closed_under_a_copy() -> None:
    """Whoever closes does not wait; the copy's end closes."""
    gpu = Gpu()
    gpu.go_on.clear()
    memory = devices(gpu).open(HANDLE, 0)
    copy = threading.Thread(target=memory.write, args=(0, b"x"))
    copy.start()
    assert gpu.copying.wait(5)
    memory.close()
    assert gpu.opened == 1
    gpu.go_on.set()
    copy.join(5)
    assert (gpu.opened, gpu.memory.raw[:1]) == (0, b"x")


def test_a_copy_that_fails_says_why() -> None:
    """In CUDA's words."""
    gpu = Gpu()
    gpu.copy_status = 700
    memory = devices(gpu).open(HANDLE, 0)
    with pytest.raises(CudaCopyFailed, match="out of luck"):
        memory.read(0, 8)


def test_what_is_missing_is_named() -> None:
    """A library, or the GPU; looked for once."""
    asked: list[str] = []

    def load(name: str) -> Any:
        asked.append(name)
        raise OSError(name)

    without = CudaDevices(load)
    assert not without.usable
    for _ in range(2):
        with pytest.raises(CudaMissing, match="libcudart"):
            without.open(HANDLE, 0)
    assert len(asked) == len(set(asked))
    with pytest.raises(CudaMissing, match=r"no NVIDIA GPU that works \(out of luck\)"):
        devices(Gpu(devices=0)).open(HANDLE, 0)
