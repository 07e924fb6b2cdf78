"""Objects in any S3-compatible store, through obstore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from lepton_storage.errors import ObjectMissing, ObjectStoreUnavailable

_PART_BYTES = 8 << 20


class S3Object:
    """Reads by range; nothing is held open."""

    def __init__(self, store: S3Store, key: str, size: int) -> None:
        self._store = store
        self._key = key
        self.size = size

    def read(self, start: int, length: int) -> bytes:
        end = min(start + length, self.size)
        if end <= start:
            return b""
        with _errors(self._key):
            return bytes(obstore.get_range(self._store, self._key, start=start, end=end))

    def close(self) -> None:
        """Nothing to do."""


class S3ObjectStore:
    """Keys below the store's prefix, as they are."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    def put_file(self, key: str, path: Path) -> None:
        size = path.stat().st_size
        with _errors(key):
            # A multipart upload shows up only once it is complete.
            obstore.put(self._store, key, path, chunk_size=_PART_BYTES)
            stored = obstore.head(self._store, key)["size"]
        if stored != size:
            self.delete(key)
            raise ObjectStoreUnavailable(
                f"the object store kept {stored} of {size} bytes of object {key}; try again",
                object=key,
            )
        path.unlink()

    def open(self, key: str) -> S3Object:
        with _errors(key):
            return S3Object(self._store, key, obstore.head(self._store, key)["size"])

    def exists(self, key: str) -> bool:
        try:
            self.open(key)
        except ObjectMissing:
            return False
        return True

    def delete(self, key: str) -> None:
        try:
            with _errors(key):
                obstore.delete(self._store, key)
        except ObjectMissing:
            pass


@contextmanager
def _errors(key: str) -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise ObjectMissing(
            f"object {key} is gone from the object store; restore it from a backup", object=key
        ) from None
    except BaseError as error:
        # Its text may hold signed URLs, so it stays in the log as the cause.
        raise ObjectStoreUnavailable(
            "the object store does not answer; check LEPTON_OBJECTS_URL, its credentials and "
            "whether it is up, then try again",
            object=key,
        ) from error
