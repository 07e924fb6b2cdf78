"""Objects as files of a local directory: the embedded default of the object store port."""

from __future__ import annotations

import os
from pathlib import Path

from lepton_mesh.durable import sync_directory
from lepton_storage.errors import ObjectMissing, disk_errors


class LocalObject:
    """An open file, read with pread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def read(self, start: int, length: int) -> bytes:
        data = os.pread(self._fd, length, start)
        while len(data) < length and (
            more := os.pread(self._fd, length - len(data), start + len(data))
        ):
            data += more
        return data

    def close(self) -> None:
        os.close(self._fd)


class LocalObjectStore:
    """``<root>/<first two digits>/<key>``, in files of mode 0600."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put_file(self, key: str, path: Path) -> None:
        target = self._path(key)
        with disk_errors(self._root):
            if not target.parent.exists():
                target.parent.mkdir(mode=0o700, exist_ok=True)
                sync_directory(self._root)
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            path.replace(target)
            sync_directory(target.parent)

    def open(self, key: str) -> LocalObject:
        try:
            return LocalObject(os.open(self._path(key), os.O_RDONLY))
        except FileNotFoundError:
            raise ObjectMissing(
                f"object {key} is gone from {self._root}; restore it from a backup", object=key
            ) from None

    def exists(self, key: str) -> bool:
        return self._path(key).exists()

    def delete(self, key: str) -> None:
        path = self._path(key)
        path.unlink(missing_ok=True)
        if path.parent.exists():
            sync_directory(path.parent)

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / key
