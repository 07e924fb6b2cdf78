"""A job's directory: what is kept of it, and what may keep it from being removed."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lepton_training.job import Job, State
from lepton_training.job_files import JobFiles, remove

JOB = Job("w", "j", {}, "users/ada", datetime.now(UTC), 1)


@pytest.fixture(autouse=True)
def _rights_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for any user but root: nothing is removed from a folder that is closed or read-only."""
    removed = shutil.rmtree

    def strict(path: Path) -> None:
        for folder in (path, *path.rglob("*")):
            inner = folder.is_dir() and not folder.is_symlink()
            if inner and folder.stat().st_mode & 0o700 != 0o700:
                raise PermissionError(f"{folder} is closed")
        removed(path)

    monkeypatch.setattr("lepton_training.job_files.shutil.rmtree", strict)


def closed(directory: Path) -> None:
    """What a user's own code may leave: folders within folders that give no rights."""
    inner = directory / "own" / "tmp" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    (inner / "link").symlink_to("/")
    for folder, mode in ((inner, 0o500), (inner.parent, 0o000), (directory / "own", 0o500)):
        folder.chmod(mode)


@pytest.mark.parametrize("end", [State.FAILED, State.CANCELLED])
def test_a_job_ends_whatever_its_code_closed(tmp_path: Path, end: State) -> None:
    """Its log stays, and of what it wrote nothing does."""
    files = JobFiles(tmp_path)
    directory = files.directory("w", "j")
    directory.mkdir(parents=True)
    (directory / "log.txt").write_text("said")
    closed(directory)
    files.clean(JOB, end)
    assert [path.name for path in directory.iterdir()] == ["log.txt"]


def test_a_job_can_be_deleted_whatever_its_code_closed(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    closed(files.directory("w", "j"))
    files.remove("w", "j")
    assert not files.directory("w", "j").exists()


def test_what_is_no_folder_is_removed_too(tmp_path: Path) -> None:
    """A link by itself, and what is not there not at all."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "file").touch()
    for name in ("link", "file", "none"):
        remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_failed_job_ends_without_a_checkpoint_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written down that it is lost."""
    files = JobFiles(tmp_path)
    own = files.directory("w", "j") / "own"
    own.mkdir(parents=True)
    (own / "checkpoint.pt").touch()

    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(f"{path} is closed")

    monkeypatch.setattr(Path, "replace", refuse)
    files.clean(JOB, State.FAILED)
    assert list(files.directory("w", "j").iterdir()) == []
