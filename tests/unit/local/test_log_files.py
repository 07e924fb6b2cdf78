"""Logs: kept small while somebody writes, read from their end, followed over the cut."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lepton_local import log_files
from lepton_local.processes import Program, start
from lepton_mesh.log_files import earlier


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "storage.log"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few bytes, so that lines lie across them."""
    monkeypatch.setattr(log_files, "_BLOCK_BYTES", 7)
    monkeypatch.setattr(log_files, "MAX_BYTES", 100)
    monkeypatch.setattr(log_files, "_FOLLOW_SECONDS", 0.01)


def test_who_writes_to_a_large_log_goes_on_at_its_beginning(log: Path) -> None:
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old line\n" * 20)
        log_files.keep_small(log)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert earlier(log).read_bytes() == b"old line\n" * 20


def test_a_small_log_stays(log: Path) -> None:
    log_files.keep_small(log)
    log.write_bytes(b"x" * 100)
    log_files.keep_small(log)
    assert [path.name for path in log.parent.iterdir()] == [log.name]


def test_a_process_that_starts_finds_its_log_small(log: Path) -> None:
    log.write_bytes(b"x" * 101)
    argv = [sys.executable, "-c", "print('begun')"]
    process: subprocess.Popen[bytes] = start(Program("storage", argv, {}, log), log.parent)
    process.wait(30)
    assert log.read_bytes() == b"begun\n"


@pytest.mark.parametrize(
    ("content", "count", "lines"),
    [
        (b"", 3, []),
        (b"one\ntwo\nthree\n", 2, ["two", "three"]),
        (b"one\ntwo\nthree", 2, ["two", "three"]),
        (b"one\ntwo\n", 9, ["one", "two"]),
        (b"\n\n\n", 2, ["", ""]),
        (b"a line longer than a block\nend\n", 2, ["a line longer than a block", "end"]),
        (b"bad \xff byte\n", 1, ["bad \ufffd byte"]),
        (b"one\n", 0, []),
    ],
)
def test_the_last_lines(content: bytes, count: int, lines: list[str], log: Path) -> None:
    log.write_bytes(content)
    assert log_files.last_lines(log, count) == lines


def test_a_log_begun_anew_is_read_with_the_one_before(log: Path) -> None:
    earlier(log).write_bytes(b"one\ntwo\n")
    log.write_bytes(b"three\n")
    assert log_files.last_lines(log, 2) == ["two", "three"]
    assert list(log_files.all_lines(log)) == ["one", "two", "three"]


def test_the_last_lines_of_a_large_log_are_read_from_its_end(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the end is read, whatever lies before."""
    monkeypatch.undo()
    with log.open("wb") as file:
        file.truncate(1 << 40)  # a hole: to read it would take minutes
        file.seek(0, 2)
        file.write(b"\nlast\n")
    assert log_files.last_lines(log, 1) == ["last"]


def test_following_goes_on_when_the_log_begins_anew(log: Path) -> None:
    log.write_bytes(b"seen\n" + b"x" * 200)
    texts = log_files.follow(log, 5)
    assert "".join(next(texts) for _ in range(29)) == "x" * 200
    log_files.keep_small(log)
    with log.open("ab") as file:
        file.write("grün\n".encode())
    assert next(texts) == "grün\n"
