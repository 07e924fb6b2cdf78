"""Regions: whose they are, how many there may be, and when they go."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from lepton_inference.adapters.cuda_memory import CudaDevices
from lepton_inference.adapters.posix_shared_memory import PosixSharedMemory
from lepton_inference.parameters import SharedPart
from lepton_inference.serving import Admitted, Workspace
from lepton_inference.shared_memory import (
    Bounds,
    Kind,
    RegionExists,
    RegionNotFound,
    SharedMemory,
    SharedMemoryFull,
    SharedMemoryInvalid,
    SharedMemoryKeyNotFound,
    SharedMemoryRange,
)
from lepton_mesh.caller import Caller, Role
from lepton_mesh.errors import LeptonError

SIZE = 4096


class Machine:
    """Shared memory in a directory of its own, with clocks that are told what time it is."""

    def __init__(self, directory: Path, bounds: Bounds | None = None) -> None:
        self.directory = directory
        self.now = 1000.0
        self.wall = 5000.0
        self.revoked: set[str] = set()
        self.memory = SharedMemory(
            PosixSharedMemory(directory=directory),
            CudaDevices(_no_library),
            bounds,
            revoked=self.revoked.__contains__,
            clock=lambda: self.now,
            wall=lambda: self.wall,
        )

    def object(self, name: str, size: int = SIZE) -> Path:
        path = self.directory / name
        path.write_bytes(bytes(size))
        return path

    def register(self, admitted: Admitted, name: str, size: int = SIZE) -> None:
        if not (self.directory / name).exists():
            self.object(name, size)
        self.memory.register_system(admitted, name, f"/{name}", 0, size)

    def names(self, admitted: Admitted) -> list[str]:
        return [region.name for region in self.memory.status(admitted, Kind.SYSTEM)]


def _no_library(name: str) -> object:
    raise OSError(name)


def caller(
    subject: str = "users/ada", workspace: str = "lab", expires: float = 9000.0, serial: str = "a1"
) -> Admitted:
    who = Caller("user", subject, workspace, Role.DEVELOPER)
    return Admitted(who, Workspace(), expires, serial)


ADA = caller()
BOB = caller("users/bob")
ADA_ELSEWHERE = caller(workspace="other")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("other", [BOB, ADA_ELSEWHERE])
async def test_a_region_is_its_owners_alone(machine: Machine, other: Admitted) -> None:
    """Nobody else finds it, lists it, unregisters it, or has the memory behind it."""
    machine.register(ADA, "x")
    part = SharedPart("x", 0, 8)
    with pytest.raises(RegionNotFound):
        machine.memory.find(other, part)
    with pytest.raises(RegionNotFound):
        machine.memory.status(other, Kind.SYSTEM, "x")
    assert machine.names(other) == []
    machine.memory.unregister(other, Kind.SYSTEM)
    machine.memory.unregister(other, Kind.SYSTEM, "x")
    with pytest.raises(SharedMemoryKeyNotFound) as taken:
        machine.memory.register_system(other, "mine", "x", 0, 2 * SIZE)
    (machine.directory / "x").rename(machine.directory / "y")
    with pytest.raises(SharedMemoryKeyNotFound) as absent:
        machine.memory.register_system(other, "mine", "x", 0, 2 * SIZE)
    assert taken.value.message == absent.value.message
    (machine.directory / "y").rename(machine.directory / "x")
    assert machine.memory.find(ADA, part).memory.read(0, 8) == bytes(8)


async def test_names_are_for_each_caller(machine: Machine) -> None:
    """Two callers may call different memory the same; one may call the same by two names."""
    machine.register(ADA, "x")
    machine.object("theirs")
    machine.memory.register_system(BOB, "x", "theirs", 0, SIZE)
    machine.memory.register_system(ADA, "again", "x", 8, 16)
    assert (machine.names(ADA), machine.names(BOB)) == (["x", "again"], ["x"])
    machine.memory.unregister(ADA, Kind.CUDA)
    machine.memory.unregister(ADA, Kind.SYSTEM, "x")
    machine.memory.unregister(ADA, Kind.SYSTEM, "x")
    assert (machine.names(ADA), machine.names(BOB)) == (["again"], ["x"])


@pytest.mark.parametrize(
    ("registration", "error"),
    [
        (("x", "x", 0, 8), RegionExists),
        (("", "x", 0, 8), SharedMemoryInvalid),
        (("a" * 257, "x", 0, 8), SharedMemoryInvalid),
        (("a\nb", "x", 0, 8), SharedMemoryInvalid),
        (("y", "x", 0, 0), SharedMemoryInvalid),
        (("y", "x", -1, 8), SharedMemoryInvalid),
        (("y", "x", 1, SIZE), SharedMemoryRange),
        (("y", "x", 2**64 - 1, 1), SharedMemoryRange),
        (("y", "", 0, 8), SharedMemoryInvalid),
        (("y", "/", 0, 8), SharedMemoryInvalid),
        (("y", ".", 0, 8), SharedMemoryInvalid),
        (("y", "/..", 0, 8), SharedMemoryInvalid),
        (("y", "../x", 0, 8), SharedMemoryInvalid),
        (("y", "a/b", 0, 8), SharedMemoryInvalid),
        (("y", "x\0", 0, 8), SharedMemoryInvalid),
        (("y", "\udcff", 0, 8), SharedMemoryInvalid),
        (("y", "x" * 300, 0, 8), SharedMemoryInvalid),
        (("y", "/envoy_shared_memory_0", 0, 8), SharedMemoryInvalid),
        (("y", "sem.lock", 0, 8), SharedMemoryInvalid),
        (("y", "/torch_12_34_0", 0, 8), SharedMemoryInvalid),
        (("y", "absent", 0, 8), SharedMemoryKeyNotFound),
        (("y", "link", 0, 8), SharedMemoryKeyNotFound),
        (("y", "directory", 0, 8), SharedMemoryKeyNotFound),
        (("y", "fifo", 0, 8), SharedMemoryKeyNotFound),
        (("y", "locked", 0, 8), SharedMemoryKeyNotFound),
    ],
)
async def test_what_cannot_be_registered_is_refused(
    machine: Machine, registration: tuple[str, str, int, int], error: type[LeptonError]
) -> None:
    """With an error that says what is wrong; nothing is registered."""
    machine.register(ADA, "x")
    (machine.directory / "link").symlink_to(machine.directory / "x")
    (machine.directory / "directory").mkdir()
    os.mkfifo(machine.directory / "fifo")
    machine.object("locked").chmod(0)
    if os.geteuid() == 0:  # whom permissions do not hold back
        os.chown(machine.directory / "locked", 12345, 12345)
    with pytest.raises(error):
        machine.memory.register_system(ADA, *registration)
    assert machine.names(ADA) == ["x"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_root_has_no_more_than_others(machine: Machine) -> None:
    """A server that runs as root takes another user's object only where all may use it."""
    path = machine.object("x")
    os.chown(path, 12345, 12345)
    path.chmod(0o660)
    with pytest.raises(SharedMemoryKeyNotFound):
        machine.register(ADA, "x")
    path.chmod(0o666)
    machine.register(ADA, "x")


async def test_a_prefix_keeps_callers_to_their_objects(tmp_path: Path) -> None:
    """Where one is set, nothing else in the directory can be registered."""
    for name in ("lepton-x", "theirs"):
        (tmp_path / name).write_bytes(bytes(8))
    system = PosixSharedMemory("lepton-", tmp_path)
    system.open("/lepton-x")
    with pytest.raises(SharedMemoryInvalid, match="begins with 'lepton-'"):
        system.open("/theirs")


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(regions=2),
        Bounds(caller_bytes=3 * SIZE - 1),
        Bounds(all_bytes=3 * SIZE - 1),
    ],
)
async def test_what_may_be_registered_is_bounded(tmp_path: Path, bounds: Bounds) -> None:
    """In number and in bytes, of one caller and of all; what is unregistered makes room."""
    machine = Machine(tmp_path, bounds)
    machine.register(ADA, "x")
    machine.register(ADA, "y")
    with pytest.raises(SharedMemoryFull):
        machine.register(ADA, "z")
    if bounds.all_bytes < 3 * SIZE:
        with pytest.raises(SharedMemoryFull):
            machine.register(BOB, "z")
    else:
        machine.register(BOB, "theirs")
    machine.memory.unregister(ADA, Kind.SYSTEM, "x")
    machine.register(ADA, "z")


async def test_a_region_lasts_as_long_as_its_owners_token(machine: Machine) -> None:
    """The longest of those that the owner came with; another's makes no difference."""
    machine.register(ADA, "x")
    machine.register(BOB, "y")
    renewed = caller(expires=9900.0)
    machine.memory.find(renewed, SharedPart("x", 0, 8))
    machine.memory.find(ADA, SharedPart("x", 0, 8))
    machine.wall = 9000.0
    machine.memory.sweep()
    assert (machine.names(ADA), machine.names(BOB)) == (["x"], [])
    machine.wall = 9900.0
    machine.memory.sweep()
    assert machine.names(ADA) == []


async def test_a_region_goes_with_its_owners_certificate(machine: Machine) -> None:
    """Unless the owner came over another as well."""
    machine.register(ADA, "x")
    machine.memory.find(caller(serial="b2"), SharedPart("x", 0, 8))
    machine.revoked.add("a1")
    machine.memory.sweep()
    assert machine.names(ADA) == ["x"]
    machine.revoked.add("b2")
    machine.memory.sweep()
    assert machine.names(ADA) == []


async def test_a_region_that_nobody_uses_goes(tmp_path: Path) -> None:
    """After a while; one that is used stays."""
    machine = Machine(tmp_path, Bounds(idle_seconds=10.0))
    machine.register(ADA, "x")
    machine.register(ADA, "y")
    machine.now += 10.0
    machine.memory.find(ADA, SharedPart("y", 0, 8))
    machine.now += 1.0
    machine.memory.sweep()
    assert machine.names(ADA) == ["y"]


async def test_a_region_goes_with_its_object(machine: Machine) -> None:
    """Deleted, or made anew under the same key, which is then free to be registered."""
    machine.register(ADA, "x")
    machine.register(ADA, "y")
    (machine.directory / "x").unlink()
    machine.object("new").rename(machine.directory / "y")
    for name in ("x", "y"):
        region = machine.memory.find(ADA, SharedPart(name, 0, 8))
        with pytest.raises(SharedMemoryKeyNotFound):
            region.memory.read(0, 8)
    machine.register(ADA, "y")
    machine.memory.sweep()
    assert machine.names(ADA) == ["y"]


async def test_regions_are_swept_by_themselves(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as there are any."""
    monkeypatch.setattr("lepton_inference.shared_memory._SWEEP_SECONDS", 0.0)
    names = ["x", "y", "z"]
    for name in names:
        machine.register(ADA, name)
    while names:
        (machine.directory / names.pop(0)).unlink()
        async with asyncio.timeout(5):
            # A timer tells nobody that it has run.
            while machine.names(ADA) != names:
                await asyncio.sleep(0)
    assert machine.memory._timer is None
    machine.register(ADA, "x")
    assert machine.memory._timer is not None
    machine.memory.close()


async def test_a_service_that_stops_lets_go_of_everything(machine: Machine) -> None:
    """And takes no more."""
    machine.register(ADA, "x")
    machine.memory.close()
    assert machine.names(ADA) == []
    with pytest.raises(SharedMemoryFull, match="stopping"):
        machine.register(ADA, "y")


async def test_an_object_that_shrinks_is_a_refusal(machine: Machine) -> None:
    """Of both reading and writing, and what is written does not make it grow."""
    machine.register(ADA, "x")
    memory = machine.memory.find(ADA, SharedPart("x", 0, SIZE)).memory
    os.truncate(machine.directory / "x", 100)
    with pytest.raises(SharedMemoryRange, match="100 bytes, and 4096"):
        memory.read(0, SIZE)
    with pytest.raises(SharedMemoryRange):
        memory.write(0, bytes(SIZE))
    assert (machine.directory / "x").stat().st_size == 100
    memory.write(96, b"last")
    assert memory.read(92, 8) == b"\0\0\0\0last"


async def test_a_part_lies_within_its_region(machine: Machine) -> None:
    """Not merely within the object behind it."""
    machine.object("x")
    machine.memory.register_system(ADA, "x", "x", 64, 128)
    machine.memory.find(ADA, SharedPart("x", 64, 64))
    for part in (SharedPart("x", 64, 65), SharedPart("x", 2**64, 0)):
        with pytest.raises(SharedMemoryRange, match="128 bytes"):
            machine.memory.find(ADA, part)


async def test_what_this_machine_lacks_is_not_listed(machine: Machine, tmp_path: Path) -> None:
    """``ServerMetadata.extensions`` names what is really there."""
    assert machine.memory.extensions == ("system_shared_memory",)
    elsewhere = PosixSharedMemory(directory=tmp_path / "absent")
    assert SharedMemory(elsewhere, CudaDevices(_no_library)).extensions == ()
