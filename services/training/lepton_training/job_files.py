"""The directory of a job: what its process reads and writes, and what is kept."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

from lepton_mesh.durable import write_private
from lepton_mesh.errors import FailedPrecondition
from lepton_training.events import EVENTS_FILE, LOG_FILE
from lepton_training.job import Job, State
from lepton_training.process import PROCESS_FILE

log = logging.getLogger(__name__)

JOB_FILE = "job.json"
TOKEN_FILE = "access-token"  # noqa: S105 - a file's name
JOIN_TOKEN_FILE = "join-token"  # noqa: S105 - a file's name
CHECKPOINT_FILE = "checkpoint.pt"
OWN_DIRECTORY = "own"
"""Below the job's directory: where a user's own code may write, its checkpoint included."""
_TAIL_BYTES = 4096
_TAIL_LINES = 20


class JobFilesRemain(FailedPrecondition):
    reason = "JOB_FILES_REMAIN"


class JobFiles:
    """All jobs' directories, below the service's own: ``jobs/<workspace>/<job>/``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, workspace: str, job_id: str) -> Path:
        """The job's directory; it may not exist."""
        return self.root / workspace / job_id

    def present(self, *, unfinished: bool) -> list[tuple[str, str]]:
        """Workspace and id of every job with a directory; of those not yet cleaned alone."""
        marks = self.root.glob(f"*/*/{JOB_FILE}") if unfinished else self.root.glob("*/*/")
        found = [mark.parent if unfinished else mark for mark in marks]
        return [(path.parent.name, path.name) for path in found]

    def prepare(self, job: Job, join_token: str, access_token: str) -> Path:
        """Writes what a new attempt of ``job`` reads; everything is its owner's alone."""
        directory = self.directory(job.workspace, job.id)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        stored = job.checkpoint
        request = {
            "workspace": job.workspace,
            "job": job.name,
            "spec": dict(job.spec),
            "dataset_digest": job.dataset_digest,
            "cpus": job.cpus,
            "events_offset": job.events_offset,
            "warm_files": {name: list(file) for name, file in job.warm_files.items()},
            "checkpoint": [stored.artifact, stored.sha256] if stored else None,
        }
        write_private(directory / JOB_FILE, json.dumps(request).encode())
        write_private(directory / JOIN_TOKEN_FILE, join_token.encode())
        self.write_token(job, access_token)
        # A certificate of an earlier attempt may have run out.
        remove(directory / "identity")
        return directory

    def write_token(self, job: Job, access_token: str) -> None:
        """Replaces the token of the job's process, which reads it for each thing that it asks."""
        directory = self.directory(job.workspace, job.id)
        write_private(directory / TOKEN_FILE, access_token.encode())

    def token_age(self, job: Job) -> float:
        """Seconds since the token was written; infinite where there is none."""
        try:
            written = (self.directory(job.workspace, job.id) / TOKEN_FILE).stat().st_mtime
        except FileNotFoundError:
            return math.inf
        return time.time() - written

    def clean(self, job: Job, end: State) -> None:
        """Keeps events and log of a job about to end as ``end``; when it failed, its checkpoint.

        Also which process it had: a service that stops before the end is in the record comes
        to the same end again.
        """
        directory = self.directory(job.workspace, job.id)
        keep = {EVENTS_FILE, LOG_FILE, PROCESS_FILE}
        if end is State.FAILED:
            keep.add(CHECKPOINT_FILE)
        if not directory.exists():
            return
        if end is State.FAILED:
            _take_out(directory / OWN_DIRECTORY / CHECKPOINT_FILE, directory / CHECKPOINT_FILE)
        for entry in directory.iterdir():
            if entry.name in keep:
                continue
            try:
                remove(entry)
            except OSError:  # the job has ended all the same
                log.exception("a file of a job that ended remains", extra={"job": job.name})

    def remove(self, workspace: str, job_id: str) -> None:
        """Deletes the job's directory with all that lies in it.

        Raises JobFilesRemain.
        """
        try:
            remove(self.directory(workspace, job_id))
        except OSError as error:
            log.exception("files of a job cannot be removed", extra={"job": f"jobs/{job_id}"})
            raise JobFilesRemain(
                f"files of jobs/{job_id} cannot be removed ({error.strerror}): the training "
                "service's log has their path, for who runs it",
                job=f"jobs/{job_id}",
            ) from error

    def log_end(self, workspace: str, job_id: str) -> str:
        """The last lines of the log; empty without one."""
        try:
            with (self.directory(workspace, job_id) / LOG_FILE).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _TAIL_BYTES))
                content = file.read()
        except FileNotFoundError:
            return ""
        return "\n".join(content.decode(errors="replace").splitlines()[-_TAIL_LINES:])

    def read_log(self, workspace: str, job_id: str, offset: int, limit: int = 1 << 18) -> bytes:
        """At most ``limit`` bytes of the log from ``offset`` on."""
        try:
            with (self.directory(workspace, job_id) / LOG_FILE).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""


def read_request(directory: Path) -> dict[str, Any]:
    """What :meth:`JobFiles.prepare` wrote; for the job's process."""
    request: dict[str, Any] = json.loads((directory / JOB_FILE).read_text())
    return request


def remove(path: Path) -> None:
    """Deletes what is there, if anything: a folder with all in it, whatever rights to it were taken
    away by who wrote it; of a link, only the link."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        _give_rights(path)
        shutil.rmtree(path)
    except FileNotFoundError:
        if path.exists():
            raise


def _give_rights(path: Path) -> None:
    path.chmod(0o700)
    for folder, names, _ in os.walk(path):
        for name in names:
            inner = Path(folder, name)
            if not inner.is_symlink():
                inner.chmod(0o700)


def _take_out(checkpoint: Path, target: Path) -> None:
    """Keeps the checkpoint that own code left, where it is a file that can be had."""
    try:
        if checkpoint.is_file() and not checkpoint.is_symlink():
            checkpoint.replace(target)
    except OSError:  # the job has ended all the same
        log.exception("a checkpoint cannot be kept")
