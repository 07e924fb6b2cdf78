"""Key-encryption keys in a file beside the service: the embedded default of the KMS port.

``kek.json`` (mode 0600): ``{"current": id, "keys": {id: base64 of 32 bytes}}``. Whoever has this
file and the database can read every object, so back it up apart from both.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lepton_mesh.config import InvalidConfiguration
from lepton_mesh.disk import disk_errors
from lepton_mesh.durable import write_private

_NONCE_BYTES = 12


class FileKeyEncryption:
    """AES-256-GCM with keys of a local file. Thread-safe."""

    def __init__(self, path: Path, current: str, keys: dict[str, bytes]) -> None:
        self._path = path
        self._current = current
        self._keys = keys
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, needed: Collection[str] = ()) -> Self:
        """Reads ``path``; where no key is ``needed`` yet, makes it with a new one.

        Args:
            needed: Ids of the key-encryption keys that the database's keys are wrapped with.

        Raises:
            InvalidConfiguration: Others may read the file, it is not one of ours, or a key that
                is needed is not in it.
        """
        if not path.exists():
            if needed:
                raise InvalidConfiguration(
                    f"{path} is missing, and nothing that is stored can be read without it; "
                    "restore it from the backup"
                )
            made = cls(path, "", {})
            made.rotate()
            return made
        if path.stat().st_mode & 0o077:
            raise InvalidConfiguration(f"{path} can be read by others; run: chmod 600 {path}")
        try:
            stored = json.loads(path.read_bytes())
            keys = {id: base64.b64decode(key) for id, key in stored["keys"].items()}
            opened = cls(path, stored["current"], keys)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidConfiguration(
                f"{path} is not a file of key-encryption keys; restore it from a backup"
            ) from error
        if missing := sorted(set(needed) - keys.keys()):
            raise InvalidConfiguration(
                f"{path} does not hold the key-encryption key {missing[0]} that the database "
                "needs; restore the file that belongs to this database from the backup"
            )
        return opened

    def wrap(self, key: bytes, context: bytes) -> tuple[str, bytes]:
        with self._lock:
            kek_id = self._current
            kek = self._keys[kek_id]
        nonce = os.urandom(_NONCE_BYTES)
        return kek_id, nonce + AESGCM(kek).encrypt(nonce, key, context)

    def unwrap(self, kek_id: str, wrapped: bytes, context: bytes) -> bytes:
        with self._lock:
            kek = self._keys[kek_id]
        try:
            return AESGCM(kek).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context)
        except InvalidTag:
            raise ValueError("a wrapped key does not authenticate") from None

    def rotate(self) -> str:
        with self._lock:
            kek_id = os.urandom(8).hex()
            self._save(kek_id, {**self._keys, kek_id: os.urandom(32)})
        return kek_id

    def retire(self, needed: Collection[str]) -> None:
        with self._lock:
            kept = {self._current, *needed}
            self._save(self._current, {id: key for id, key in self._keys.items() if id in kept})

    def _save(self, current: str, keys: dict[str, bytes]) -> None:
        """Raises DiskFull; nothing is wrapped with a key that is not in the file."""
        encoded = {id: base64.b64encode(key).decode() for id, key in keys.items()}
        content = json.dumps({"current": current, "keys": encoded}, indent=1).encode()
        with disk_errors(self._path.parent):
            write_private(self._path, content)
        self._current, self._keys = current, keys
