"""Uploads in progress on the local disk, encrypted from the first byte.

    <root>/<upload id>         the object as it will be stored: header and whole segments so far
    <root>/<upload id>.tail    what was sent beyond them, sealed as an object of its own

Segments are appended in order and never sealed twice under one data key: what a crash or a full
disk left of a segment makes the next writer seal the intact ones anew under a fresh key
(:meth:`StagedUpload.open` does so), since its number was used up. One writer at a time, in this
process or another: each holds a lock on the file.

Everything here blocks: use a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_mesh.durable import sync_directory, write_private
from lepton_storage.encryption import (
    HEADER_BYTES,
    TAG_BYTES,
    Header,
    SealBrokenError,
    SegmentCipher,
)
from lepton_storage.errors import UploadBusy, UploadNotFound, disk_errors, disk_full
from lepton_storage.keys import Keyring
from lepton_storage.records import Upload

if TYPE_CHECKING:
    from hashlib import _Hash

Write = Callable[[int, bytes], int]
"""``os.write``, or what a test has fail."""

_REMEMBERED_HASHES = 256
_ID = re.compile(r"[0-9a-f]{32}")


class Staging:
    """The directory of uploads in progress."""

    def __init__(
        self, root: Path, keys: Keyring, *, reserve_bytes: int = 0, write: Write = os.write
    ) -> None:
        self.root = root
        self.keys = keys
        self.write = write
        self._reserve_bytes = reserve_bytes
        self.hashes = HashMemory()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def check_space(self, size: int) -> None:
        """Raises DiskFull unless ``size`` bytes fit and leave the reserve free."""
        if size + self._reserve_bytes > shutil.disk_usage(self.root).free:
            raise disk_full(self.root)

    def path(self, id: str) -> Path:
        return self.root / id

    def committed(self, upload: Upload) -> int:
        """Bytes of an incomplete upload that are durable; makes them so where need be."""
        path = self.path(upload.id)
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return 0
        try:
            with disk_errors(path):
                os.fdatasync(fd)
            stored = os.fstat(fd).st_size
            try:
                header = Header.decode(os.pread(fd, HEADER_BYTES, 0))
            except SealBrokenError:
                return 0
            whole = _whole_segments(header, stored)
            if whole == header.segments:
                return header.size
            return whole * header.segment_bytes + self._tail_size(upload, whole, header)
        finally:
            os.close(fd)

    def discard(self, id: str) -> None:
        """Deletes what was sent; UploadBusy while somebody writes to it."""
        try:
            fd = _open_locked(self.path(id), os.O_RDWR)
        except FileNotFoundError:
            fd = None
        try:
            self.forget(id)
        finally:
            if fd is not None:
                os.close(fd)

    def forget(self, id: str) -> None:
        """Deletes what is here of an upload, for whoever holds its lock."""
        # The tail first: without the rest it means nothing.
        for name in (f"{id}.tail", f".{id}.tail.new", f".{id}.new", id):
            (self.root / name).unlink(missing_ok=True)
        sync_directory(self.root)
        self.hashes.forget(id)

    def ids(self, before: datetime) -> Iterator[str]:
        """The uploads of which a file was last written before ``before``."""
        found = set[str]()
        for path in self.root.iterdir():
            id = path.name.strip(".").partition(".")[0]
            if _ID.fullmatch(id):  # what others may have put here stays
                with contextlib.suppress(FileNotFoundError):  # it was just completed
                    if path.stat().st_mtime < before.timestamp():
                        found.add(id)
        return iter(found)

    def tail_path(self, id: str) -> Path:
        return self.root / f"{id}.tail"

    def tail(self, upload: Upload, whole: int) -> bytes:
        """What was sent beyond ``whole`` segments; empty if nothing was or it is damaged."""
        try:
            data = self.tail_path(upload.id).read_bytes()
            header = Header.decode(data)
            if len(data) != header.sealed_size:
                return b""
            cipher = self.keys.cipher(header, upload.workspace, _tail_id(upload, whole))
            return cipher.open(0, data[HEADER_BYTES:])
        except (FileNotFoundError, SealBrokenError):
            return b""

    def save_tail(self, upload: Upload, whole: int, plain: bytes) -> None:
        """Makes ``plain``, which is less than a segment, durable."""
        cipher = self.keys.new_cipher(upload.workspace, _tail_id(upload, whole), len(plain))
        with disk_errors(self.root):
            write_private(self.tail_path(upload.id), cipher.header.encode() + cipher.seal(0, plain))

    def _tail_size(self, upload: Upload, whole: int, header: Header) -> int:
        # The tail's own seal is bound to the number of segments before it: opening it is the
        # only way to know that it is not left over from before the last one.
        length = len(self.tail(upload, whole))
        return length if length < header.plain_length(whole) else 0


class StagedUpload:
    """One upload open for appending, by one writer."""

    def __init__(
        self, staging: Staging, upload: Upload, fd: int, cipher: SegmentCipher, segments: int
    ) -> None:
        self._staging = staging
        self._upload = upload
        self._fd = fd
        self._cipher = cipher
        self._segments = segments
        self._hash: _Hash = hashlib.sha256()
        self._tail = b""

    @classmethod
    def open(cls, staging: Staging, upload: Upload) -> StagedUpload:
        """Goes on with what is there, authenticated, or begins.

        Raises UploadBusy, UploadNotFound (deleted meanwhile), DiskFull.
        """
        path = staging.path(upload.id)
        with disk_errors(path):
            fd = _open_locked(path, os.O_RDWR | os.O_CREAT)
            try:
                staged = cls._restore(staging, upload, fd)
            except BaseException:
                os.close(fd)
                raise
            return staged

    @property
    def key_id(self) -> str:
        return self._cipher.header.key_id.hex()

    @property
    def next_length(self) -> int:
        """Plain bytes that the next segment has; call it only while there is one."""
        return self._cipher.header.plain_length(self._segments)

    @property
    def tail(self) -> bytes:
        """Committed bytes beyond the whole segments; the next segment begins with them."""
        return self._tail

    @property
    def committed(self) -> int:
        """Where the next byte goes."""
        header = self._cipher.header
        return min(header.size, self._segments * header.segment_bytes) + len(self._tail)

    @property
    def whole(self) -> bool:
        """Whether all segments are there."""
        return self._segments == self._cipher.header.segments

    def append(self, plain: bytes | bytearray) -> None:
        """Seals the next segment; ``plain`` is all of it, its tail included.

        Raises DiskFull; the upload has to be opened again then.
        """
        sealed = self._cipher.seal(self._segments, plain)
        with disk_errors(self._staging.path(self._upload.id)):
            _write_all(self._staging.write, self._fd, sealed)
        self._hash.update(plain)
        self._segments += 1
        self._tail = b""

    def commit(self, rest: bytes) -> None:
        """Makes all segments durable, and ``rest``, which is less than one."""
        path = self._staging.path(self._upload.id)
        with disk_errors(path):
            os.fdatasync(self._fd)
        if rest:
            self._staging.save_tail(self._upload, self._segments, rest)
            self._tail = rest
        else:
            self._staging.tail_path(self._upload.id).unlink(missing_ok=True)
        self._staging.hashes.remember(self._upload.id, self._segments, self._hash)

    def digest(self) -> str:
        """SHA-256 of all segments, 64 hex digits."""
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Deletes everything that was sent."""
        self._staging.forget(self._upload.id)

    def close(self) -> None:
        """Lets the next writer in."""
        os.close(self._fd)

    @classmethod
    def _restore(cls, staging: Staging, upload: Upload, fd: int) -> StagedUpload:
        stored = os.fstat(fd).st_size
        try:
            header = Header.decode(os.pread(fd, HEADER_BYTES, 0))
        except SealBrokenError:
            return cls._begin(staging, upload, fd)
        cipher = staging.keys.cipher(header, upload.workspace, upload.id)
        whole = _whole_segments(header, stored)
        staged = cls(staging, upload, fd, cipher, whole)
        remembered = staging.hashes.recall(upload.id, whole)
        if remembered is not None and stored == _end(header, whole):
            staged._hash = remembered
        else:
            staged._authenticate(whole)
            if staged._segments != whole or stored != _end(header, whole):
                staged._reseal()
        if not staged.whole:
            tail = staging.tail(upload, staged._segments)
            if len(tail) < header.plain_length(staged._segments):
                staged._tail = tail
        os.lseek(staged._fd, 0, os.SEEK_END)
        return staged

    @classmethod
    def _begin(cls, staging: Staging, upload: Upload, fd: int) -> StagedUpload:
        cipher = staging.keys.new_cipher(upload.workspace, upload.id, upload.size_bytes)
        os.ftruncate(fd, 0)
        _write_all(staging.write, fd, cipher.header.encode())
        os.fsync(fd)
        sync_directory(staging.root)
        return cls(staging, upload, fd, cipher, 0)

    def _authenticate(self, whole: int) -> None:
        """Hashes the segments that are there, up to the first that does not open."""
        self._segments, self._hash = 0, hashlib.sha256()
        for plain in self._opened(whole):
            self._hash.update(plain)
            self._segments += 1

    def _opened(self, count: int) -> Iterator[bytes]:
        header = self._cipher.header
        for number in range(count):
            sealed = os.pread(
                self._fd, header.plain_length(number) + TAG_BYTES, header.sealed_offset(number)
            )
            try:
                yield self._cipher.open(number, sealed)
            except SealBrokenError:
                return

    def _reseal(self) -> None:
        """Puts the intact segments under a fresh data key, in the file's place."""
        staging, upload = self._staging, self._upload
        cipher = staging.keys.new_cipher(upload.workspace, upload.id, upload.size_bytes)
        path = staging.path(upload.id)
        temporary = staging.root / f".{upload.id}.new"
        temporary.unlink(missing_ok=True)
        fd = _open_locked(temporary, os.O_RDWR | os.O_CREAT)
        try:
            _write_all(staging.write, fd, cipher.header.encode())
            for number, plain in enumerate(self._opened(self._segments)):
                _write_all(staging.write, fd, cipher.seal(number, plain))
            os.fsync(fd)
            temporary.replace(path)
            # The same descriptor from now on: whoever opened it closes it, and the lock with it.
            os.dup2(fd, self._fd, inheritable=False)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        sync_directory(staging.root)
        self._cipher = cipher


class HashMemory:
    """SHA-256 states of uploads that may go on, so that going on need not read it all again.

    hashlib cannot store a state on disk; after a restart the bytes are read once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: OrderedDict[str, tuple[int, _Hash]] = OrderedDict()

    def remember(self, id: str, segments: int, state: _Hash) -> None:
        with self._lock:
            self._states[id] = (segments, state.copy())
            self._states.move_to_end(id)
            while len(self._states) > _REMEMBERED_HASHES:
                self._states.popitem(last=False)

    def recall(self, id: str, segments: int) -> _Hash | None:
        """The state after ``segments`` segments, if it is still known."""
        with self._lock:
            known = self._states.get(id)
        return known[1].copy() if known is not None and known[0] == segments else None

    def forget(self, id: str) -> None:
        with self._lock:
            self._states.pop(id, None)


def _tail_id(upload: Upload, whole: int) -> str:
    return f"{upload.id}.tail.{whole}"


def _whole_segments(header: Header, stored: int) -> int:
    if stored >= header.sealed_size:
        return header.segments
    # The last segment is there only if all of it is.
    return min((stored - HEADER_BYTES) // (header.segment_bytes + TAG_BYTES), header.segments - 1)


def _end(header: Header, whole: int) -> int:
    return header.sealed_size if whole == header.segments else header.sealed_offset(whole)


def _write_all(write: Write, fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[write(fd, view) :]  # type: ignore[arg-type]  # os.write takes any buffer


def _open_locked(path: Path, flags: int) -> int:
    """Opens and locks; UploadBusy if another holds the lock, UploadNotFound if it was deleted."""
    fd = os.open(path, flags, 0o600)
    try:
        _lock(path, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock(path: Path, fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UploadBusy(
            f"another stream writes to upload '{path.name}'; end it or wait a moment, then get "
            "the upload and go on from its committed_bytes",
            upload=path.name,
        ) from None
    try:
        same = path.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        same = False
    if not same:
        raise UploadNotFound(
            f"upload '{path.name}' was just completed or deleted; begin a new one",
            upload=path.name,
        )
