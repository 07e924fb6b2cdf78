"""Copies a job's checkpoint to storage while the job runs, so that it outlives the node.

The checkpoint of a user's own code is a file that the code may do anything with: it is opened
without following a link, read only if it is a regular file, and no further than it may be large.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from lepton_mesh.errors import DataLoss, NotFound
from lepton_training.events import EventWriter
from lepton_training.job_files import CHECKPOINT_FILE, OWN_DIRECTORY, read_request
from lepton_training.worker.platform import Platform

log = logging.getLogger(__name__)

_FETCHED_FILE = "stored-checkpoint.pt"
"""Where the copy is fetched to: nothing of a user's writes beside it."""
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Keeping:
    """When a checkpoint is copied."""

    seconds: float
    """Between two looks whether there is a new one."""
    max_bytes: int
    """Larger ones are not copied."""
    last_seconds: float
    """How long the last copy may take when the job's process is to end."""


class CheckpointKeeper:
    """Copies within ``with``; in a thread, beside the training."""

    def __init__(
        self, directory: Path, platform: Platform, events: EventWriter, keeping: Keeping
    ) -> None:
        """
        Args:
            directory: The job's, with its request.
            events: Is told of each copy.
        """
        request = read_request(directory)
        own = bool(request["spec"].get("code"))
        self._fetched = directory / _FETCHED_FILE
        self._path = (directory / OWN_DIRECTORY if own else directory) / CHECKPOINT_FILE
        self._platform = platform
        self._events = events
        self._keeping = keeping
        self._stored: tuple[str, str] | None = None
        """Artifact and SHA-256 of the copy, as the record has it."""
        if request.get("checkpoint"):
            artifact, sha256 = request["checkpoint"]
            self._stored = artifact, sha256
        self._seen: tuple[int, ...] = ()
        """What tells the file that was last looked into from one that replaced it."""
        self._stopping = threading.Event()
        self._wants_last = False
        self._telling = threading.Lock()
        self._closed = False
        # A daemon: a copy that storage takes too long for does not hold up the process's end.
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def restore(self) -> None:
        """Fetches the copy where the job's directory has no checkpoint.

        A copy that is gone or damaged is as none: the job begins anew.
        """
        if self._stored is None or os.path.lexists(self._path):
            return
        artifact, sha256 = self._stored
        try:
            self._platform.fetch_artifact(artifact, sha256, self._fetched)
        except (NotFound, DataLoss) as error:
            log.warning("the checkpoint in storage is lost, so the job begins anew: %s", error)
            self._stored = None
            return
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        self._fetched.replace(self._path)
        log.info("fetched the checkpoint from storage")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(last=kind is not None)

    def close(self, *, last: bool) -> None:
        """Ends the copying; no event is written from then on.

        Args:
            last: Copies a newer checkpoint before, if that takes no longer than it may.
        """
        self._wants_last = self._wants_last or last
        self._stopping.set()
        self._thread.join(self._keeping.last_seconds)
        with self._telling:
            self._closed = True

    def _run(self) -> None:
        while not self._stopping.wait(self._keeping.seconds):
            self._copy_if_new()
        if self._wants_last:
            self._copy_if_new()

    def _copy_if_new(self) -> None:
        try:
            with self._opened() as file:
                status = os.fstat(file.fileno())
                found = (status.st_ino, status.st_mtime_ns, status.st_size)
                if found == self._seen:
                    return
                self._copy(file, status.st_size)
            self._seen = found
        except FileNotFoundError:
            return  # there is none yet
        except Exception as error:  # the job must not fail for it
            log.warning("the checkpoint is not copied to storage: %s", error)

    def _opened(self) -> BinaryIO:
        # Not blocking: a pipe in its place would be waited for.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._path, flags)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ValueError("it is no regular file")
        return os.fdopen(descriptor, "rb")

    def _copy(self, file: BinaryIO, size: int) -> None:
        if size > self._keeping.max_bytes:
            log.warning(
                "the checkpoint has %d bytes, and is not copied to storage: %d are allowed "
                "(LEPTON_JOB_CHECKPOINT_MIB)",
                size,
                self._keeping.max_bytes,
            )
            return
        sha256 = _sha256(file, size)
        if self._stored is not None and sha256 == self._stored[1]:
            return  # an earlier attempt copied it, or it was fetched
        artifact = self._platform.store_checkpoint(file, size, sha256)
        with self._telling:
            if self._closed:
                return
            self._events.write("checkpoint", artifact=artifact, sha256=sha256)
        self._stored = artifact, sha256


def _sha256(file: BinaryIO, size: int) -> str:
    """Of the first ``size`` bytes: somebody may be making it longer."""
    digest = hashlib.sha256()
    while size > 0 and (piece := file.read(min(size, _PIECE_BYTES))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()
