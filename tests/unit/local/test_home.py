"""Where a stack keeps everything, and the record of what it runs."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from lepton_local.errors import HomeUnwritable, RecordUnreadable, StackBusy
from lepton_local.home import Home, ProcessRecord, StackRecord


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "state" / "lepton")
    home.create()
    return home


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"LEPTON_HOME": "/a/b", "XDG_STATE_HOME": "/c"}, "/a/b"),
        ({"XDG_STATE_HOME": "/c"}, "/c/lepton"),
        ({"LEPTON_HOME": "", "XDG_STATE_HOME": ""}, "~/.local/state/lepton"),
        ({}, "~/.local/state/lepton"),
        ({"LEPTON_HOME": "here"}, "here"),
    ],
)
def test_which_stack_is_meant(environ: dict[str, str], path: str) -> None:
    assert Home.default(environ).path == Path(path).expanduser().absolute()


def test_only_its_owner_enters(home: Home) -> None:
    home.create()  # may be repeated
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.logs.stat().st_mode) == 0o700


def test_the_layout(home: Home) -> None:
    """What backups and scripts count on."""
    places = (home.ca_file, home.service("auth"), home.log("etcd"))
    assert [str(place.relative_to(home.path)) for place in places] == [
        "ca.pem",
        "auth",
        "logs/etcd.log",
    ]


def test_the_record_is_read_as_it_was_written(home: Home) -> None:
    assert home.read() is None
    record = StackRecord(
        state="READY",
        supervisor=ProcessRecord(7, 1.5),
        step="s",
        gateway="[::1]:8443",
        seconds_to_ready=6.25,
        processes={"etcd": ProcessRecord(8, 2.5, restarts=3)},
    )
    home.write(record)
    assert home.read() == record
    assert [path.name for path in home.path.iterdir() if path.is_file()] == ["stack.json"]
    assert stat.S_IMODE((home.path / "stack.json").stat().st_mode) == 0o600
    home.forget()
    home.forget()
    assert home.read() is None


def test_the_lock_is_held_once(home: Home) -> None:
    with home.locked(), pytest.raises(StackBusy, match="--home"), home.locked():
        pass
    with home.locked():
        pass


def test_a_home_that_cannot_be_written_is_told_with_the_remedy(home: Home) -> None:
    """Whether it is to be made, or to be locked."""
    with pytest.raises(HomeUnwritable, match=r"cannot write to /proc/lepton.*--home"):
        Home(Path("/proc/lepton")).create()
    with (
        pytest.raises(HomeUnwritable, match=r"cannot write to /proc.*--home"),
        Home(Path("/proc")).locked(),
    ):
        pass


def test_a_record_of_another_version_is_read(home: Home) -> None:
    """What it has besides is left out; what it lacks has its default."""
    (home.path / "stack.json").write_text(
        json.dumps(
            {
                "state": "READY",
                "supervisor": {"pid": 7, "started": 1.5, "nice": 3},
                "console": "https://here",
                "processes": {"etcd": {"pid": 8, "started": 2}},
            }
        )
    )
    assert home.read() == StackRecord(
        state="READY",
        supervisor=ProcessRecord(7, 1.5),
        processes={"etcd": ProcessRecord(8, 2.0)},
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"state": "READ',
        b"\xff",
        b"[]",
        b"null",
        b'{"state": "READY"}',
        b'{"state": "READY", "supervisor": {"pid": "x", "started": 1}}',
        b'{"state": "READY", "supervisor": {"pid": 1e999, "started": 1}}',
        b'{"state": "READY", "supervisor": {"pid": 7, "started": 1}, "processes": [1]}',
    ],
)
def test_a_damaged_record_is_told_with_the_remedy(home: Home, content: bytes) -> None:
    (home.path / "stack.json").write_bytes(content)
    with pytest.raises(RecordUnreadable, match=r"stack\.json cannot be read .*lepton down --home"):
        home.read()


def test_a_record_that_cannot_be_written_leaves_the_one_before(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = StackRecord(state="READY", supervisor=ProcessRecord(7, 1.5))
    home.write(record)

    def full(_: int) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            home.write(StackRecord(state="FAILED", supervisor=ProcessRecord(7, 1.5)))
    assert home.read() == record
    home.write(record)
    assert [path.name for path in home.path.iterdir() if path.is_file()] == ["stack.json"]
