"""What the domain needs from elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Set
from pathlib import Path
from typing import Protocol

from lepton_inference.endpoint import Endpoint, ModelVersion
from lepton_inference.tensors import Buffer
from lepton_mesh.errors import LeptonError


class Endpoints(Protocol):
    """The record of all endpoints."""

    async def add(self, endpoint: Endpoint) -> None:
        """Writes a new one; raises EndpointExists."""
        ...

    async def get(self, workspace: str, endpoint_id: str) -> Endpoint:
        """Raises EndpointNotFound."""
        ...

    async def page(self, workspace: str, after: str, limit: int) -> list[Endpoint]:
        """In order of id, those after ``after``."""
        ...

    async def all(self) -> list[Endpoint]:
        """Those of every workspace."""
        ...

    async def change(
        self, workspace: str, endpoint_id: str, change: Callable[[Endpoint], Endpoint]
    ) -> Endpoint:
        """Replaces one by ``change`` of it, atomically; raises EndpointNotFound."""
        ...

    async def delete(self, workspace: str, endpoint_id: str) -> None:
        """Raises EndpointNotFound."""
        ...


class Registry(Protocol):
    """The models that may be served."""

    async def resolve(self, name: str) -> ModelVersion:
        """The version that ``name`` means now, with the authority of the current caller."""
        ...

    async def newest(self) -> dict[str, str]:
        """Ids of the current caller's models that have a version -> the newest one's number."""
        ...


class Artifacts(Protocol):
    """The bytes of models."""

    def read(self, workspace: str, artifact: str) -> AsyncIterator[bytes]:
        """An artifact's bytes, in pieces, with this service's own authority."""
        ...


class Models(Protocol):
    """Models on this machine, by digest."""

    async def get(self, sha256: str, artifact: str, content: AsyncIterator[bytes]) -> Path:
        """The file of the model with that digest, read from ``content`` if it is not there.

        Raises what ``content`` raises, and DataLoss where it is something else.
        """
        ...

    async def keep(self, wanted: Callable[[], Awaitable[Set[str]]]) -> None:
        """Removes models that nobody wants.

        Args:
            wanted: Finds the digests of all that are, or were when it began; what is asked for
                by :meth:`get` meanwhile stays too.
        """
        ...


class SharedObject(Protocol):
    """Memory that another process lends; any thread may use it, several at a time."""

    @property
    def identity(self) -> object:
        """Equal, and hashed equally, for two that are the same memory."""
        ...

    @property
    def quick(self) -> bool:
        """Whether a few KiB are copied in microseconds, so that the event loop may do it."""
        ...

    def present(self) -> bool:
        """Whether it is there still. Quick; does not raise."""
        ...

    def require(self, end: int) -> None:
        """Raises SharedMemoryRange where it has fewer than ``end`` bytes."""
        ...

    def read(self, offset: int, size: int) -> Buffer:
        """A copy of its bytes, which no other process can change any more.

        Raises:
            SharedMemoryKeyNotFound: It is gone.
            SharedMemoryRange: It has become shorter.
        """
        ...

    def write(self, offset: int, data: Buffer) -> None:
        """Puts the bytes there. Raises as :meth:`read`, and SharedMemoryFull."""
        ...

    def absent(self) -> LeptonError:
        """What a caller is told where there is no such memory."""
        ...

    def close(self) -> None:
        """Lets go of it, once nobody reads or writes. Does not raise."""
        ...


class SystemMemory(Protocol):
    """The shared memory of this machine."""

    @property
    def usable(self) -> bool:
        """Whether this machine has any."""
        ...

    def open(self, key: str) -> SharedObject:
        """The object called ``key``; raises SharedMemoryInvalid and SharedMemoryKeyNotFound."""
        ...


class CudaMemory(Protocol):
    """The memory of this machine's GPUs."""

    @property
    def usable(self) -> bool:
        """Whether there is a GPU and its libraries."""
        ...

    def open(self, handle: bytes, device: int) -> SharedObject:
        """The memory behind a handle of another process; may take seconds the first time.

        Raises:
            CudaMissing: There is no GPU here, or no library for it.
            CudaHandleInvalid: The handle does not open.
        """
        ...
