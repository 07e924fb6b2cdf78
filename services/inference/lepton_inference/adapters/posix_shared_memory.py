"""POSIX shared-memory objects of this machine, which on Linux are the files of /dev/shm.

An object is opened anew each time it is read or written (4 us), found to be the very one that
was registered, and copied with ``pread`` and ``pwrite``. A mapping would save that copy (0.9 ms
for 10 MB), and whoever shares the object could then kill this process: cutting the file short
under a mapping raises SIGBUS at the next access, while ``pread`` gives fewer bytes. No
descriptor outlives its use, so that what is unregistered, or deleted by its owner, is let go.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lepton_inference.shared_memory import (
    SharedMemoryFull,
    SharedMemoryInvalid,
    SharedMemoryKeyNotFound,
    SharedMemoryRange,
)
from lepton_inference.tensors import Buffer

DIRECTORY: Final = Path("/dev/shm")  # noqa: S108  not a temporary file: where the objects are

_KEY = re.compile(r"/?([!-.0-~]{1,255})")
_RESERVED: Final = ("envoy_shared_memory_", "sem.", "torch_", "nccl-", "cuda.shm.")
"""How the names begin of what programs of the same user keep for themselves: Envoy's own memory,
semaphores, and what PyTorch's processes, NCCL and CUDA share among each other."""
_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""Never through a link; a FIFO in the place of an object does not hold anybody up."""
_OUR_OWN_LACK: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class PosixSharedMemory:
    """Opens objects by their key.

    Args:
        prefix: What the names of objects must begin with; "" for any.
        directory: Where they lie.
    """

    def __init__(self, prefix: str = "", directory: Path = DIRECTORY) -> None:
        self._prefix = prefix
        self._directory = directory

    @property
    def usable(self) -> bool:
        """Whether this machine has such objects."""
        return self._directory.is_dir()

    def open(self, key: str) -> PosixObject:
        """The object that is called ``key`` now.

        Args:
            key: Its name, with or without the leading slash of shm_open(3).

        Raises:
            SharedMemoryInvalid: The key is not a plain name.
            SharedMemoryKeyNotFound: There is no such object that this process may use.
        """
        match = _KEY.fullmatch(key)
        name = match.group(1) if match else ""
        if name in ("", ".", ".."):
            raise SharedMemoryInvalid(
                f"the key {key[:64]!r} is not the name of a shared-memory object: printable ASCII "
                "without a slash after the first character",
                field="key",
            )
        if name.startswith(_RESERVED) or not name.startswith(self._prefix):
            wanted = f"a key that begins with '{self._prefix}'" if self._prefix else "another key"
            raise SharedMemoryInvalid(f"the key '{key}' is not for tensors; use {wanted}")
        return PosixObject(self._directory, name)


class PosixObject:
    """One object, which is recognized when its name has come to mean another."""

    quick = True
    """See SharedObject."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / name
        self._name = name
        self._same: tuple[int, int] | None = None
        with self._opened(0) as descriptor:
            status = os.fstat(descriptor)
            self._same = status.st_dev, status.st_ino

    @property
    def identity(self) -> object:
        """See SharedObject."""
        return self._same

    def present(self) -> bool:
        """See SharedObject."""
        try:
            status = os.lstat(self._path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._same

    def require(self, end: int) -> None:
        """See SharedObject."""
        with self._opened(end):
            pass

    def read(self, offset: int, size: int) -> bytes:
        """See SharedObject."""
        with self._opened(offset + size) as descriptor:
            parts: list[bytes] = []
            done = 0
            while done < size:
                part = os.pread(descriptor, size - done, offset + done)
                if not part:
                    raise self._short(offset + done, offset + size)
                parts.append(part)
                done += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: Buffer) -> None:
        """See SharedObject."""
        with self._opened(offset + len(data)) as descriptor:
            view = memoryview(data)
            while view:
                try:
                    written = os.pwrite(descriptor, view, offset)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    raise SharedMemoryFull(
                        f"{self._path.parent} is full: '{self._name}' has more bytes than there "
                        "is memory for"
                    ) from None
                view, offset = view[written:], offset + written

    def absent(self) -> SharedMemoryKeyNotFound:
        """See SharedObject."""
        # One answer whatever the reason, so that nobody learns what others keep here.
        return SharedMemoryKeyNotFound(
            f"this server has no shared-memory object '{self._name}' that you may use: make it on "
            "the server's own machine, as the user the server runs as, or readable and writable "
            "for it, and register it anew if it was made anew; from another machine send tensors "
            "in the message"
        )

    def close(self) -> None:
        """See SharedObject; nothing is held between uses."""

    @contextmanager
    def _opened(self, end: int) -> Iterator[int]:
        """A descriptor of the object, which has ``end`` bytes at least."""
        try:
            descriptor = os.open(self._path, _FLAGS)
        except OSError as error:
            if error.errno in _OUR_OWN_LACK:
                raise
            raise self.absent() from None
        try:
            status = os.fstat(descriptor)
            same = status.st_dev, status.st_ino
            if not _usable(status) or self._same not in (None, same):
                raise self.absent()
            if status.st_size < end:
                raise self._short(status.st_size, end)
            yield descriptor
        finally:
            os.close(descriptor)

    def _short(self, size: int, end: int) -> SharedMemoryRange:
        return SharedMemoryRange(
            f"the shared-memory object '{self._name}' has {size} bytes, and {end} are needed",
            bytes=size,
            expected=end,
        )


def _usable(status: os.stat_result) -> bool:
    """Whether it is an object, and open to this process by more than root's power over all."""
    if not stat.S_ISREG(status.st_mode):
        return False
    mine, for_all = os.geteuid(), stat.S_IROTH | stat.S_IWOTH
    return mine != 0 or status.st_uid == mine or status.st_mode & for_all == for_all
