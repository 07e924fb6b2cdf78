"""Workspace keys: one secret per workspace, wrapped by a key-encryption key.

Data keys derive from the workspace key, so that rotating the key-encryption key re-wraps a few
bytes per workspace and touches no object, and destroying a workspace's key erases every object
that it covered. An older copy of the database still has the wrapped key, so the key-encryption
key goes with it: what is left to do is to delete older copies of that one.
"""

from __future__ import annotations

import os
import threading
import uuid

from lepton_storage.encryption import KEY_BYTES, Header, SegmentCipher
from lepton_storage.errors import KeyDestroyed, ObjectCorrupt
from lepton_storage.ports import KeyEncryption, KeyRecords
from lepton_storage.records import WorkspaceKey


class Keyring:
    """Finds the key of an object, and makes one for a workspace that has none. Thread-safe."""

    def __init__(self, records: KeyRecords, kms: KeyEncryption) -> None:
        self._records = records
        self._kms = kms
        self._lock = threading.Lock()
        self._unwrapped: dict[str, tuple[str, bytes]] = {}
        """Key id -> (workspace, key); asking the KMS for each object would be slow."""

    def new_cipher(self, workspace: str, object_id: str, size: int) -> SegmentCipher:
        """A cipher under a fresh data key, for an object that is about to be written."""
        key_id, key = self._current(workspace)
        return SegmentCipher(Header.fresh(bytes.fromhex(key_id), size), key, workspace, object_id)

    def cipher(self, header: Header, workspace: str, object_id: str) -> SegmentCipher:
        """The cipher of an object that exists.

        Raises:
            KeyDestroyed: Its workspace key was destroyed: the bytes are erased for good.
            ObjectCorrupt: The header names a key that this workspace never had.
        """
        key_id = header.key_id.hex()
        with self._lock:
            known = self._unwrapped.get(key_id)
        if known is None:
            record = self._records.get(key_id)
            if record is None or record.workspace != workspace:
                raise ObjectCorrupt(
                    f"object {object_id} names a key that its workspace never had; restore it "
                    "from a backup",
                    object=object_id,
                )
            known = (record.workspace, self._unwrap(record))
        if known[0] != workspace:
            raise ObjectCorrupt(
                f"object {object_id} was sealed for another workspace; restore it from a backup",
                object=object_id,
            )
        return SegmentCipher(header, known[1], workspace, object_id)

    def rotate(self) -> int:
        """Re-wraps every workspace key under a new key-encryption key; returns how many.

        Not beside another process that serves the same database: that one would go on wrapping
        with the old key-encryption key, which it holds in memory.
        """
        self._kms.rotate()
        records = self._records.alive()
        for record in records:
            kek_id, wrapped = self._kms.wrap(self._unwrap(record), _context(record))
            self._records.rewrap(WorkspaceKey(record.id, record.workspace, kek_id, wrapped))
        # Last, and asked anew: an old key goes only once no row was wrapped with it.
        self._kms.retire({record.kek_id for record in self._records.alive()})
        return len(records)

    def destroy(self, workspace: str) -> int:
        """Destroys a workspace's keys and with them all its bytes; returns how many keys.

        The key-encryption key is changed as :meth:`rotate` does it, so that an older copy of the
        database opens nothing together with what the KMS has from now on.

        Other processes that serve the same database keep a key that they hold in memory until
        they end: restart them.
        """
        count = self._records.destroy(workspace)
        with self._lock:
            for key_id in [id for id, (owner, _) in self._unwrapped.items() if owner == workspace]:
                del self._unwrapped[key_id]
        if count:
            self.rotate()
        return count

    def _current(self, workspace: str) -> tuple[str, bytes]:
        record = self._records.current(workspace)
        if record is None:
            made = WorkspaceKey(uuid.uuid4().hex, workspace, "", b"")
            kek_id, wrapped = self._kms.wrap(os.urandom(KEY_BYTES), _context(made))
            # Another process may have been first; the database decides.
            record = self._records.add(WorkspaceKey(made.id, workspace, kek_id, wrapped))
        return record.id, self._unwrap(record)

    def _unwrap(self, record: WorkspaceKey) -> bytes:
        if record.wrapped is None:
            raise KeyDestroyed(
                "the key of these bytes was destroyed, and they cannot be read any more",
                workspace=record.workspace,
            )
        with self._lock:
            known = self._unwrapped.get(record.id)
        if known is not None:
            return known[1]
        try:
            key = self._kms.unwrap(record.kek_id, record.wrapped, _context(record))
        except KeyError:
            raise ObjectCorrupt(
                f"key-encryption key {record.kek_id} is missing; put the file kek.json back that "
                "belongs to this database",
                kek=record.kek_id,
            ) from None
        except ValueError as error:
            raise ObjectCorrupt(
                f"the stored key of workspace '{record.workspace}' does not authenticate; restore "
                "the database from a backup",
                workspace=record.workspace,
            ) from error
        with self._lock:
            self._unwrapped[record.id] = (record.workspace, key)
        return key


def _context(record: WorkspaceKey) -> bytes:
    """Binds a wrapped key to its row, so that rows cannot be swapped."""
    return f"lepton workspace key|{record.id}|{record.workspace}".encode()
