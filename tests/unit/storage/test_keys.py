"""Workspace keys: wrapped, rotated without touching objects, destroyed for good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lepton_mesh.caller import Caller
from lepton_mesh.config import InvalidConfiguration
from lepton_storage.adapters.kek_file import FileKeyEncryption
from lepton_storage.bootstrap import Storage
from lepton_storage.errors import BlobNotFound, KeyDestroyed
from tests.unit.storage.conftest import Open
from tests.unit.storage.traffic import read, send, sha256


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def test_rotation_changes_no_object(reopen: Open, ada: Caller, tmp_path: Path) -> None:
    """Rotating re-wraps keys only; everything is read as before, after a restart too."""
    storage = reopen()
    await send(storage, ada, b"secret")
    stored = tmp_path / "state" / "objects" / "stored"
    kek = tmp_path / "state" / "kek.json"
    before, old = files(stored), json.loads(kek.read_text())
    assert storage.keys.rotate() == 1
    new = json.loads(kek.read_text())
    assert files(stored) == before
    assert list(new["keys"]) == [new["current"]] != [old["current"]]
    assert await read(storage, ada, sha256(b"secret")) == b"secret"
    assert await read(reopen(), ada, sha256(b"secret")) == b"secret"


async def test_destroying_a_key_erases_what_it_covered(
    storage: Storage, reopen: Open, ada: Caller, eve: Caller
) -> None:
    """Nothing of the workspace can be read or found; others, and new bytes, are untouched."""
    for caller in (ada, eve):
        await send(storage, caller, b"secret")
    blob = storage.uploads.blob(ada, sha256(b"secret"))
    assert storage.keys.destroy("acme") == 1
    for one in (storage, reopen()):
        with pytest.raises(KeyDestroyed):
            [piece async for piece in one.blobs.read(blob, 0, 0)]
        with pytest.raises(BlobNotFound):
            one.uploads.blob(ada, sha256(b"secret"))
    assert await read(storage, eve, sha256(b"secret")) == b"secret"
    progress = await send(storage, ada, b"secret")
    assert progress.upload.blob_id != blob.id
    assert await read(storage, ada, sha256(b"secret")) == b"secret"


async def test_the_key_file_of_another_database_is_refused(
    storage: Storage, reopen: Open, ada: Caller, tmp_path: Path
) -> None:
    """A lost or exchanged kek.json stops the start, and no new one is made in its place."""
    await send(storage, ada, b"secret")
    path = tmp_path / "state" / "kek.json"
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(InvalidConfiguration, match=r"kek\.json is missing.*backup"):
        reopen()
    assert not path.exists()
    FileKeyEncryption.open(path)
    with pytest.raises(InvalidConfiguration, match=r"kek\.json does not hold"):
        reopen()
    path.write_bytes(kept)
    assert await read(reopen(), ada, sha256(b"secret")) == b"secret"


def test_an_old_key_is_retired_once_nothing_needs_it(tmp_path: Path) -> None:
    """What is still wrapped with it can be unwrapped until then."""
    kms = FileKeyEncryption.open(tmp_path / "kek.json")
    old, wrapped = kms.wrap(b"k" * 32, b"acme")
    kms.rotate()
    kms.retire({old})
    assert FileKeyEncryption.open(tmp_path / "kek.json").unwrap(old, wrapped, b"acme") == b"k" * 32
    kms.retire(())
    with pytest.raises(KeyError):
        kms.unwrap(old, wrapped, b"acme")


def test_wrapped_keys_are_bound_to_their_context(tmp_path: Path) -> None:
    """A wrapped key does not unwrap in another row, nor changed."""
    kms = FileKeyEncryption.open(tmp_path / "kek.json")
    kek_id, wrapped = kms.wrap(b"k" * 32, b"acme")
    assert kms.unwrap(kek_id, wrapped, b"acme") == b"k" * 32
    for data, context in (
        (wrapped, b"other"),
        (bytes([wrapped[0] ^ 1]) + wrapped[1:], b"acme"),
        (b"", b"acme"),
    ):
        with pytest.raises(ValueError):
            kms.unwrap(kek_id, data, context)


@pytest.mark.parametrize(("content", "mode"), [("{}", 0o600), ("no", 0o600), (None, 0o644)])
def test_a_key_file_that_is_wrong_stops_the_start(
    tmp_path: Path, content: str | None, mode: int
) -> None:
    """A damaged key file, or one that others can read, is an error that names it."""
    path = tmp_path / "kek.json"
    FileKeyEncryption.open(path)
    assert path.stat().st_mode & 0o777 == 0o600
    if content is not None:
        path.write_text(content)
    path.chmod(mode)
    with pytest.raises(InvalidConfiguration, match=r"kek\.json"):
        FileKeyEncryption.open(path)
