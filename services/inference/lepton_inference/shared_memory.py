"""Regions of shared memory: who registered them, how many there may be, and when they go.

A region belongs to the identity that registered it, a subject in a workspace, and its name
means something to that identity alone. The memory behind it is of one identity at a time as
well: somebody else who registers it is told what they would be told if it were not there.

Regions go when their owner unregisters them, when the last token the owner came with has
expired or the certificate it came over was revoked, when the memory is gone, when nobody has
used them for a while, and when the service stops.

Everything here lives on the event loop; only memory is opened, read and written elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from lepton_inference.parameters import SharedPart
from lepton_inference.ports import CudaMemory, SharedObject, SystemMemory
from lepton_inference.serving import Admitted
from lepton_mesh.errors import AlreadyExists, InvalidArgument, NotFound, ResourceExhausted

_SWEEP_SECONDS = 5.0
_NAME_LENGTH = 256


class RegionNotFound(NotFound):
    """The caller has no region of that name, whoever else may have one."""

    reason = "SHARED_MEMORY_REGION_NOT_FOUND"


class RegionExists(AlreadyExists):
    reason = "SHARED_MEMORY_REGION_EXISTS"


class SharedMemoryKeyNotFound(NotFound):
    """There is no such memory on this machine, or none that the caller may have."""

    reason = "SHARED_MEMORY_KEY_NOT_FOUND"


class SharedMemoryInvalid(InvalidArgument):
    """A name, key or size that no region can have."""

    reason = "SHARED_MEMORY_INVALID"


class SharedMemoryRange(InvalidArgument):
    """Bytes that lie past the end of a region, or of the memory behind it."""

    reason = "SHARED_MEMORY_RANGE"


class SharedMemoryFull(ResourceExhausted):
    reason = "SHARED_MEMORY_FULL"


class Kind(Enum):
    """Where a region's memory is."""

    SYSTEM = "system"
    CUDA = "CUDA"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may be registered at a time."""

    regions: int = 64
    """Of one caller."""
    caller_bytes: int = 1 << 30
    """Of one caller's regions together."""
    all_bytes: int = 4 << 30
    """Of everybody's regions together."""
    idle_seconds: float = 3600.0
    """How long a region stays that nobody uses."""


@dataclass(slots=True, eq=False)
class Region:
    """A piece of memory under a name of its owner's."""

    name: str
    kind: Kind
    memory: SharedObject
    size: int
    """Bytes."""
    key: str = ""
    """System memory: what the object is called."""
    offset: int = 0
    """System memory: where the region begins in the object, bytes."""
    device: int = 0
    """CUDA: the GPU's number."""
    used: float = 0.0
    """When it was used last, by the clock of its collection."""


@dataclass(slots=True, eq=False)
class _Owner:
    regions: dict[str, Region] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    """Serial of the certificate that the owner came over -> when the longest of the tokens that
    were shown on it expires, Unix seconds."""


_Identity = tuple[str, str]
"""Workspace and subject."""


class SharedMemory:
    """Everybody's regions.

    Args:
        system: This machine's memory.
        cuda: Its GPUs' memory.
        bounds: What may be registered.
        revoked: Whether a certificate was revoked, by its serial number.
        clock: Seconds; for idleness.
        wall: Unix seconds; for the expiry of tokens.
    """

    def __init__(
        self,
        system: SystemMemory,
        cuda: CudaMemory,
        bounds: Bounds | None = None,
        *,
        revoked: Callable[[str], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._system = system
        self._cuda = cuda
        self._bounds = bounds or Bounds()
        self._revoked = revoked
        self._clock = clock
        self._wall = wall
        self._owners: dict[_Identity, _Owner] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def extensions(self) -> tuple[str, ...]:
        """What this machine can do, by Triton's names."""
        kinds = (("system_shared_memory", self._system), ("cuda_shared_memory", self._cuda))
        return tuple(name for name, memory in kinds if memory.usable)

    def status(self, admitted: Admitted, kind: Kind, name: str = "") -> list[Region]:
        """The caller's regions of a kind, or the one of that name; raises RegionNotFound."""
        regions = self._regions(admitted)
        if name:
            region = regions.get(name)
            if region is None or region.kind is not kind:
                raise self._missing(name)
            return [region]
        return [region for region in regions.values() if region.kind is kind]

    def register_system(
        self, admitted: Admitted, name: str, key: str, offset: int, size: int
    ) -> None:
        """Registers ``size`` bytes of an object of this machine for the caller.

        Raises:
            RegionExists: The caller has a region of that name.
            SharedMemoryInvalid: The name, the key, the offset or the size is none.
            SharedMemoryKeyNotFound: There is no such object that the caller may use.
            SharedMemoryRange: It ends before the region does.
            SharedMemoryFull: The caller, or all callers, would have too much.
        """
        if offset < 0:
            raise SharedMemoryInvalid(f"the offset is {offset}; it is 0 or more", field="offset")
        self._check(admitted, name, size)
        memory = self._system.open(key)
        self._add(admitted, Region(name, Kind.SYSTEM, memory, size, key=key, offset=offset))

    async def register_cuda(
        self, admitted: Admitted, name: str, handle: bytes, device: int, size: int
    ) -> None:
        """Registers ``size`` bytes of a GPU's memory for the caller.

        Raises:
            RegionExists, SharedMemoryInvalid, SharedMemoryFull: As :meth:`register_system`.
            CudaMissing, CudaHandleInvalid: See CudaMemory.
            SharedMemoryRange: The memory ends before the region does.
        """
        self._check(admitted, name, size)
        opening = asyncio.ensure_future(asyncio.to_thread(self._cuda.open, handle, device))
        try:
            memory = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The caller has gone; what is being opened is open to nobody.
            opening.add_done_callback(_close_unwanted)
            raise
        try:
            # Others may have registered meanwhile.
            self._check(admitted, name, size)
            self._add(admitted, Region(name, Kind.CUDA, memory, size, device=device))
        except BaseException:
            memory.close()
            raise

    def unregister(self, admitted: Admitted, kind: Kind, name: str = "") -> None:
        """Forgets the caller's region of that name, or all of that kind; either may be none.

        A request that runs has what it read; what it would write is refused.
        """
        for region in list(self._regions(admitted).values()):
            if region.kind is kind and name in ("", region.name):
                self._drop(_identity(admitted), region)

    def find(self, admitted: Admitted, part: SharedPart) -> Region:
        """The caller's region that ``part`` is of, which counts as a use of it.

        Raises:
            RegionNotFound: The caller has none of that name.
            SharedMemoryRange: The part runs past its end.
        """
        region = self._regions(admitted).get(part.region)
        if region is None:
            raise self._missing(part.region)
        if part.offset + part.size > region.size:
            raise SharedMemoryRange(
                f"the region '{region.name}' has {region.size} bytes; {part.size} from "
                f"{part.offset} run past its end",
                bytes=region.size,
                expected=part.offset + part.size,
            )
        self._used(admitted, region)
        return region

    def sweep(self) -> None:
        """Forgets the regions whose time is over; happens by itself every few seconds."""
        now, wall = self._clock(), self._wall()
        for identity, owner in list(self._owners.items()):
            owner.tokens = {
                serial: expires
                for serial, expires in owner.tokens.items()
                if expires > wall and not self._revoked(serial)
            }
            for region in list(owner.regions.values()):
                if (
                    not owner.tokens
                    or now - region.used > self._bounds.idle_seconds
                    or not region.memory.present()
                ):
                    self._drop(identity, region)

    def close(self) -> None:
        """Forgets everything, and takes no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for identity, owner in list(self._owners.items()):
            for region in list(owner.regions.values()):
                self._drop(identity, region)

    def _regions(self, admitted: Admitted) -> dict[str, Region]:
        owner = self._owners.get(_identity(admitted))
        return {} if owner is None else owner.regions

    def _check(self, admitted: Admitted, name: str, size: int) -> None:
        """Raises what the caller hears of a region that cannot be added."""
        if self._closed:
            raise SharedMemoryFull("the service is stopping; register at another instance")
        if not name or len(name) > _NAME_LENGTH or not name.isprintable():
            raise SharedMemoryInvalid(
                f"a region's name has 1 to {_NAME_LENGTH} printable characters", field="name"
            )
        if size < 1:
            raise SharedMemoryInvalid(
                f"the region '{name}' has {size} bytes; it takes 1 at least", field="byte_size"
            )
        mine = self._regions(admitted)
        if (old := mine.get(name)) is not None:
            if old.memory.present():
                raise RegionExists(
                    f"you have a region '{name}' already; unregister it first", name=name
                )
            self._drop(_identity(admitted), old)
        bounds = self._bounds
        if len(mine) >= bounds.regions:
            raise SharedMemoryFull(
                f"you have {len(mine)} regions, and may have {bounds.regions}; unregister one",
                limit=bounds.regions,
            )
        for whose, regions, limit in (
            ("your regions", mine.values(), bounds.caller_bytes),
            ("all regions", list(self._all()), bounds.all_bytes),
        ):
            if sum(region.size for region in regions) + size > limit:
                raise SharedMemoryFull(
                    f"with {size} bytes more, {whose} would have more than the {limit} they may; "
                    "unregister some, or register less",
                    limit=limit,
                )

    def _add(self, admitted: Admitted, region: Region) -> None:
        identity = _identity(admitted)
        for other, owner in self._owners.items():
            if other != identity and any(
                theirs.memory.identity == region.memory.identity
                for theirs in owner.regions.values()
            ):
                raise region.memory.absent()
        region.memory.require(region.offset + region.size)
        self._owners.setdefault(identity, _Owner()).regions[region.name] = region
        self._used(admitted, region)
        if self._timer is None:
            self._again()

    def _used(self, admitted: Admitted, region: Region) -> None:
        region.used = self._clock()
        tokens = self._owners[_identity(admitted)].tokens
        tokens[admitted.serial] = max(admitted.expires, tokens.get(admitted.serial, 0.0))

    def _drop(self, identity: _Identity, region: Region) -> None:
        regions = self._owners[identity].regions
        del regions[region.name]
        if not regions:
            del self._owners[identity]
        region.memory.close()

    def _all(self) -> Iterator[Region]:
        for owner in self._owners.values():
            yield from owner.regions.values()

    def _again(self) -> None:
        """Sweeps in a while, and for as long as there is anything."""
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.sweep()
        if self._owners:
            self._again()

    def _missing(self, name: str) -> RegionNotFound:
        return RegionNotFound(
            f"you have no shared-memory region '{name}'; register it. Regions go with their "
            f"memory, with your token, and after {self._bounds.idle_seconds:g} s without use",
            name=name,
        )


def _close_unwanted(opening: asyncio.Future[SharedObject]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _identity(admitted: Admitted) -> _Identity:
    return admitted.caller.workspace, admitted.caller.subject
