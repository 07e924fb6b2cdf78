"""The six methods of the protocol that are about shared memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.serving import Admitted
from lepton_inference.shared_memory import Kind, SharedMemory

Handler = Callable[[Admitted, Any], Awaitable[Message]]


def shared_memory_methods(memory: SharedMemory) -> dict[str, tuple[type[Message], Handler]]:
    """Each method's name, with the type of its request and what answers it."""

    async def system_status(
        admitted: Admitted, request: pb.SystemSharedMemoryStatusRequest
    ) -> Message:
        return pb.SystemSharedMemoryStatusResponse(
            regions={
                region.name: pb.SystemSharedMemoryStatusResponse.RegionStatus(
                    name=region.name,
                    key=region.key,
                    offset=region.offset,
                    byte_size=region.size,
                )
                for region in memory.status(admitted, Kind.SYSTEM, request.name)
            }
        )

    async def system_register(
        admitted: Admitted, request: pb.SystemSharedMemoryRegisterRequest
    ) -> Message:
        memory.register_system(
            admitted, request.name, request.key, request.offset, request.byte_size
        )
        return pb.SystemSharedMemoryRegisterResponse()

    async def system_unregister(
        admitted: Admitted, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> Message:
        memory.unregister(admitted, Kind.SYSTEM, request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def cuda_status(admitted: Admitted, request: pb.CudaSharedMemoryStatusRequest) -> Message:
        return pb.CudaSharedMemoryStatusResponse(
            regions={
                region.name: pb.CudaSharedMemoryStatusResponse.RegionStatus(
                    name=region.name, device_id=region.device, byte_size=region.size
                )
                for region in memory.status(admitted, Kind.CUDA, request.name)
            }
        )

    async def cuda_register(
        admitted: Admitted, request: pb.CudaSharedMemoryRegisterRequest
    ) -> Message:
        await memory.register_cuda(
            admitted, request.name, request.raw_handle, request.device_id, request.byte_size
        )
        return pb.CudaSharedMemoryRegisterResponse()

    async def cuda_unregister(
        admitted: Admitted, request: pb.CudaSharedMemoryUnregisterRequest
    ) -> Message:
        memory.unregister(admitted, Kind.CUDA, request.name)
        return pb.CudaSharedMemoryUnregisterResponse()

    return {
        "SystemSharedMemoryStatus": (pb.SystemSharedMemoryStatusRequest, system_status),
        "SystemSharedMemoryRegister": (pb.SystemSharedMemoryRegisterRequest, system_register),
        "SystemSharedMemoryUnregister": (pb.SystemSharedMemoryUnregisterRequest, system_unregister),
        "CudaSharedMemoryStatus": (pb.CudaSharedMemoryStatusRequest, cuda_status),
        "CudaSharedMemoryRegister": (pb.CudaSharedMemoryRegisterRequest, cuda_register),
        "CudaSharedMemoryUnregister": (pb.CudaSharedMemoryUnregisterRequest, cuda_unregister),
    }
