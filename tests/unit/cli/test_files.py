"""Local files and folders: what is pushed, what cannot be written, and what is said of it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lepton.cli.documents import read_yaml
from tests.unit.cli.conftest import Command
from tests.unit.sdk.fake_gateway import Gateway


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file in it, and one in a folder below."""
    path = tmp_path / "data"
    (path / "below").mkdir(parents=True)
    (path / "a.txt").write_text("a")
    (path / "below" / "b.txt").write_text("b")
    return path


def dangling(path: Path) -> None:
    path.symlink_to("gone")


def link_to_a_folder(path: Path) -> None:
    path.symlink_to(path.parent)


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (dangling, "is a link to what is not there; mend or remove it"),
        (link_to_a_folder, "is a link to a folder; put a copy of the folder in its place"),
        (pipe, "is no plain file; move it elsewhere"),
    ],
)
def test_what_is_no_file_is_not_left_out_unsaid(
    make: Callable[[Path], None], told: str, gateway: Gateway, lepton: Command, folder: Path
) -> None:
    odd = folder / "below" / "odd"
    make(odd)
    done = lepton("data", "push", "mine", folder)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"lepton: {odd} {told}, then push again [DATASET_INVALID]\n"
    assert not gateway.storage.blobs


def test_links_to_files_are_pushed_as_files(
    gateway: Gateway, lepton: Command, folder: Path
) -> None:
    (folder / "c.txt").symlink_to("a.txt")
    lepton.ok("data", "push", "mine", folder)
    (version,) = gateway.storage.versions.values()
    assert sorted(file.path for file in version.files) == ["a.txt", "below/b.txt", "c.txt"]


def test_a_folder_that_cannot_be_read_is_not_left_out_unsaid(
    gateway: Gateway, lepton: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def denied(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "below":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    done = lepton("data", "push", "mine", folder)
    assert done.code == 2
    assert done.err == f"lepton: {folder / 'below'}: Permission denied [FILE_UNREADABLE]\n"


def test_a_fetch_to_a_full_disk(
    gateway: Gateway, lepton: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lepton.ok("data", "push", "mine", folder)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    target = folder / "fetched"
    done = lepton("data", "get", "mine", "-d", target)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"lepton: cannot write {target / 'a.txt'}: No space left on device; free space, then do "
        "the same again [DISK_FULL]\n"
    )


def test_one_file_is_not_called_files(gateway: Gateway, lepton: Command, folder: Path) -> None:
    lepton.ok("data", "push", "mine", folder / "a.txt")
    done = lepton.ok("data", "get", "mine", "-d", folder / "fetched")
    assert done.err == f"wrote 1 file to {folder / 'fetched'}\n"


def test_a_fetch_to_where_no_folder_can_be(gateway: Gateway, lepton: Command, folder: Path) -> None:
    lepton.ok("data", "push", "mine", folder)
    done = lepton("data", "get", "mine", "-d", folder / "a.txt" / "fetched")
    assert done.code == 1
    assert done.err.endswith("a.txt/fetched: Not a directory [FILE_UNWRITABLE]\n")


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "1.0e-3", "+1.e-3", ".1e-2", "0.001"])
def test_a_number_as_people_write_it(tmp_path: Path, written: str) -> None:
    """YAML 1.1 would take the first ones for text."""
    path = tmp_path / "numbers.yaml"
    path.write_text(f"learning_rate: {written}\n")
    assert read_yaml(path) == {"learning_rate": 0.001}


INTERRUPTED_IMPORT = """
import signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupts())
sys.argv = ["lepton", *{words!r}]
from lepton.cli import main
main()
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("click", ["model", "list"]),
        ("lepton.cli.root", ["model", "list"]),
        ("grpc", ["model", "list"]),
        ("lepton.client", ["infer", "digits"]),
    ],
)
def test_ctrl_c_while_modules_are_imported(module: str, words: list[str], config: Path) -> None:
    script = INTERRUPTED_IMPORT.format(module=module, words=words)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip() == "lepton: interrupted"
