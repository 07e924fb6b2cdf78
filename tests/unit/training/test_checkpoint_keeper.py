"""Copies of a job's checkpoint: when they are made, of what, and what they are good for."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from lepton_mesh.errors import DataLoss, LeptonError, NotFound, Unavailable
from lepton_training.events import EventWriter, read_events
from lepton_training.worker.checkpoint_keeper import CheckpointKeeper, Keeping
from lepton_training.worker.platform import Platform

SELDOM = Keeping(seconds=3600.0, max_bytes=100, last_seconds=10.0)
OFTEN = Keeping(seconds=0.01, max_bytes=100, last_seconds=10.0)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Storage:
    """The part of ``Platform`` that a keeper uses."""

    kept: list[bytes] = field(default_factory=list)
    arrived: queue.Queue[bytes] = field(default_factory=queue.Queue)
    refusals: list[LeptonError] = field(default_factory=list)
    """Answers of the next calls."""
    hold: threading.Event | None = None
    """What a call waits for before it answers."""

    def store_checkpoint(self, file: BinaryIO, size_bytes: int, sha256: str) -> str:
        if self.refusals:
            raise self.refusals.pop()
        content = os.pread(file.fileno(), size_bytes, 0)
        assert hashlib.sha256(content).hexdigest() == sha256
        self.kept.append(content)
        self.arrived.put(content)
        if self.hold is not None:
            self.hold.wait()
        return f"artifacts/{len(self.kept)}"

    def fetch_artifact(self, name: str, sha256: str, target: Path) -> None:
        if self.refusals:
            raise self.refusals.pop()
        target.write_bytes(f"{name} {sha256}".encode())


@dataclass
class Job:
    """A job's directory."""

    directory: Path
    storage: Storage = field(default_factory=Storage)

    def request(self, *, code: bool = False, stored: tuple[str, str] | None = None) -> None:
        spec = {"code": {"module": "net:build"}} if code else {}
        request = {"spec": spec, "checkpoint": stored}
        (self.directory / "job.json").write_text(json.dumps(request))

    def keeper(self, keeping: Keeping = SELDOM) -> CheckpointKeeper:
        platform = cast(Platform, self.storage)
        return CheckpointKeeper(self.directory, platform, EventWriter(self.directory), keeping)

    def save(self, content: bytes) -> None:
        """As training does: the new file takes the old one's place."""
        temporary = self.directory / "checkpoint.tmp"
        temporary.write_bytes(content)
        temporary.replace(self.directory / "checkpoint.pt")

    def told(self) -> list[dict[str, Any]]:
        return [event.content for event in read_events(self.directory, 0)]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    made = Job(tmp_path)
    made.request()
    return made


def test_each_new_checkpoint_is_copied(job: Job) -> None:
    """While the job trains, and once; the events name the copies."""
    with job.keeper(OFTEN) as keeper:
        for content in (b"first", b"second"):
            job.save(content)
            assert job.storage.arrived.get(timeout=10) == content
        keeper.close(last=True)
    assert job.storage.kept == [b"first", b"second"]
    assert job.told() == [
        {"artifact": "artifacts/1", "sha256": sha256(b"first")},
        {"artifact": "artifacts/2", "sha256": sha256(b"second")},
    ]


def test_the_last_checkpoint_is_copied_when_the_job_fails(job: Job) -> None:
    """Not when it succeeds: the model is registered then."""
    job.save(b"last")
    with job.keeper():
        pass
    assert job.storage.kept == []
    with pytest.raises(ZeroDivisionError), job.keeper():
        raise ZeroDivisionError
    assert job.storage.kept == [b"last"]
    assert len(job.told()) == 1


def test_a_copy_that_takes_too_long_says_nothing_later(job: Job) -> None:
    """The job's last word is the last of its events."""
    job.save(b"large")
    job.storage.hold = threading.Event()
    keeper = job.keeper(Keeping(seconds=0.01, max_bytes=100, last_seconds=0.05))
    with keeper:
        job.storage.arrived.get(timeout=10)
    job.storage.hold.set()
    keeper._thread.join(timeout=10)
    assert not keeper._thread.is_alive()
    assert job.told() == []


def test_what_failed_is_tried_again(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    """With the same checkpoint; the job does not notice."""
    job.storage.refusals = [Unavailable("storage is away")] * 2
    job.save(b"content")
    with job.keeper(OFTEN):
        assert job.storage.arrived.get(timeout=10) == b"content"
    assert caplog.text.count("is not copied to storage: storage is away") == 2


def link(path: Path) -> None:
    (path.parent / "secret").write_bytes(b"of others")
    path.symlink_to(path.parent / "secret")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (link, "symbolic links"),
        (os.mkfifo, "no regular file"),
        (Path.mkdir, "no regular file"),
        (lambda path: path.write_bytes(b"x" * 101), "101 bytes"),
    ],
    ids=["link", "pipe", "folder", "too large"],
)
def test_what_own_code_puts_in_its_place_is_left_alone(
    job: Job, caplog: pytest.LogCaptureFixture, make: Callable[[Path], object], why: str
) -> None:
    """No link is followed, no pipe waited for, nothing large sent."""
    job.request(code=True)
    (job.directory / "own").mkdir()
    make(job.directory / "own" / "checkpoint.pt")
    with job.keeper() as keeper:
        keeper.close(last=True)
    assert job.storage.kept == job.told() == []
    assert why in caplog.text


@pytest.mark.parametrize("code", [False, True], ids=["recipe", "own code"])
def test_a_lost_checkpoint_is_fetched(job: Job, code: bool) -> None:
    """To where the training looks for it. It is not copied back."""
    content = f"artifacts/9 {'a' * 64}".encode()
    job.request(code=code, stored=("artifacts/9", "a" * 64))
    path = job.directory / ("own/checkpoint.pt" if code else "checkpoint.pt")
    job.keeper().restore()
    assert path.read_bytes() == content

    job.request(code=code, stored=("artifacts/9", sha256(content)))
    with job.keeper() as keeper:
        keeper.close(last=True)
    assert job.storage.kept == []


def test_a_checkpoint_that_is_there_wins(job: Job) -> None:
    """It is never older than its copy."""
    job.request(stored=("artifacts/9", "a" * 64))
    job.save(b"newer")
    job.keeper().restore()
    assert (job.directory / "checkpoint.pt").read_bytes() == b"newer"


@pytest.mark.parametrize("error", [NotFound("it was deleted"), DataLoss("other bytes came")])
def test_a_copy_that_is_lost_is_as_none(
    job: Job, caplog: pytest.LogCaptureFixture, error: LeptonError
) -> None:
    """The job begins anew and says so; the same bytes are copied again."""
    content = b"content"
    job.request(stored=("artifacts/9", sha256(content)))
    job.storage.refusals = [error]
    with job.keeper() as keeper:
        keeper.restore()
        assert not (job.directory / "checkpoint.pt").exists()
        assert f"so the job begins anew: {error.message}" in caplog.text
        job.save(content)
        keeper.close(last=True)
    assert job.storage.kept == [content]


def test_a_storage_that_is_away_fails_the_attempt(job: Job) -> None:
    """Another attempt may find it: nothing is begun anew for that."""
    job.request(stored=("artifacts/9", "a" * 64))
    job.storage.refusals = [Unavailable("storage is away")]
    with pytest.raises(Unavailable):
        job.keeper().restore()
