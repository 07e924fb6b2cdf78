"""The commands on the keys, as an operator calls them."""

from __future__ import annotations

import errno
import json
import sqlite3
from pathlib import Path

import pytest

from lepton_mesh.caller import Caller
from lepton_mesh.config import InvalidConfiguration
from lepton_storage import offline
from lepton_storage.adapters import kek_file
from lepton_storage.errors import BlobNotFound, StateInUse
from lepton_storage.state_lock import lock_state
from tests.unit.storage.conftest import Open
from tests.unit.storage.traffic import read, send, sha256


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEPTON_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


async def test_rotate_kek(
    reopen: Open, ada: Caller, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file holds a new key alone, and everything is read as before."""
    await send(reopen(), ada, b"secret")
    old = json.loads((state / "kek.json").read_text())
    assert offline.main(["rotate-kek"]) == 0
    assert capsys.readouterr().out.startswith("re-wrapped 1 workspace keys")
    new = json.loads((state / "kek.json").read_text())
    assert list(new["keys"]) == [new["current"]] != [old["current"]]
    assert await read(reopen(), ada, sha256(b"secret")) == b"secret"


async def test_destroy_keys(
    reopen: Open, ada: Caller, eve: Caller, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One workspace's bytes are gone, others stay; there is nothing to destroy twice."""
    for caller in (ada, eve):
        await send(reopen(), caller, b"secret")
    assert offline.main(["destroy-keys", "--workspace", "acme"]) == 0
    storage = reopen()
    with pytest.raises(BlobNotFound):
        storage.uploads.blob(ada, sha256(b"secret"))
    assert await read(storage, eve, sha256(b"secret")) == b"secret"
    assert offline.main(["destroy-keys", "--workspace", "acme"]) == 1
    assert "'acme' has no key" in capsys.readouterr().err


def lies_in_the_database(state: Path, content: bytes) -> bool:
    """In the file, or in the log beside it."""
    return any(content in path.read_bytes() for path in state.glob("storage.db*"))


async def test_a_backup_opens_nothing_of_a_destroyed_workspace(
    reopen: Open, ada: Caller, eve: Caller, state: Path
) -> None:
    """Neither with the new kek.json nor by what the database's files still hold; others stay."""
    storage = reopen()
    for caller in (ada, eve):
        await send(storage, caller, b"secret")
    (wrapped,) = [key.wrapped for key in storage.keys._records.alive() if key.workspace == "acme"]
    assert wrapped
    assert lies_in_the_database(state, wrapped)
    with sqlite3.connect(state / "storage.db") as source:
        source.execute("VACUUM INTO ?", [str(state / "backup.db")])
    source.close()
    assert offline.main(["destroy-keys", "--workspace", "acme"]) == 0
    assert not lies_in_the_database(state, wrapped)
    with pytest.raises(InvalidConfiguration, match="belongs to this database"):
        reopen(database_url=f"sqlite:///{state / 'backup.db'}")
    assert await read(reopen(), eve, sha256(b"secret")) == b"secret"


async def test_an_interrupted_destruction_is_ended_by_a_rotation(
    reopen: Open,
    ada: Caller,
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The disk is full when kek.json changes: trying again tells what is left to do."""
    await send(reopen(), ada, b"secret")
    before = (state / "kek.json").read_bytes()

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(kek_file, "write_private", full)
        assert offline.main(["destroy-keys", "--workspace", "acme"]) == 1
    assert "then try again" in capsys.readouterr().err
    assert (state / "kek.json").read_bytes() == before
    assert offline.main(["destroy-keys", "--workspace", "acme"]) == 1
    assert "run rotate-kek" in capsys.readouterr().err
    assert offline.main(["rotate-kek"]) == 0
    assert not set(json.loads(before)["keys"]) & set(
        json.loads((state / "kek.json").read_text())["keys"]
    )


async def test_not_beside_a_service(
    reopen: Open, ada: Caller, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service's lock keeps a command out, and a command's keeps services out."""
    await send(reopen(), ada, b"secret")
    before = (state / "kek.json").read_bytes()
    with lock_state(state, shared=True), lock_state(state, shared=True):
        assert offline.main(["rotate-kek"]) == 1
    assert "lepton down" in capsys.readouterr().err
    assert (state / "kek.json").read_bytes() == before
    with lock_state(state, shared=False), pytest.raises(StateInUse, match="wait until it ends"):
        lock_state(state, shared=True)
