"""A job's process whose storage and registry are directories: the real training, no mesh.

Started as the service starts its own worker. ``PLATFORM_DIR`` holds ``dataset/`` and takes
``published.json`` and ``artifacts/``; where ``PLATFORM_DIR/freeze`` exists, the first attempt stops
taking steps after its first checkpoint until it is told to stop or killed. Checkpoints are copied
to ``artifacts/`` soon, or where ``PLATFORM_DIR/seldom`` exists when the process ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import BinaryIO

from lepton_training.standby import WAIT, wait_for_job
from lepton_training.worker.checkpoint_keeper import Keeping
from lepton_training.worker.execution import execute, load
from lepton_training.worker.own.environments import Environments
from lepton_training.worker.platform import Publication


class LocalPlatform:
    """``Platform`` on a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def fetch_dataset(self, version: str, directory: Path) -> None:
        shutil.copytree(self._root / "dataset", directory, dirs_exist_ok=True)

    def fetch_artifact(self, name: str, sha256: str, target: Path) -> None:
        shutil.copy(self._root / name, target)

    def store_checkpoint(self, file: BinaryIO, size_bytes: int, sha256: str) -> str:
        name = f"artifacts/{sha256}"
        file.seek(0)
        (self._root / "artifacts").mkdir(exist_ok=True)
        (self._root / name).write_bytes(file.read(size_bytes))
        return name

    def close(self) -> None:
        (self._root / "closed").touch()

    def publish(self, publication: Publication) -> str:
        name = f"{publication.model}/versions/1"
        shutil.copy(publication.model_file, self._root / "model.onnx")
        kept = publication.model_file.parent / "weights.pt"
        if kept.exists():  # a user's own code leaves a graph alone
            shutil.copy(kept, self._root / f"{publication.job.removeprefix('jobs/')}.pt")
        (self._root / "published.json").write_text(
            json.dumps(
                {
                    "name": name,
                    "job": publication.job,
                    "metrics": dict(publication.metrics),
                    "dataset_digest": publication.dataset_digest,
                    "code_version": publication.code_version,
                    "hyperparameters": dict(publication.hyperparameters),
                    "code": [publication.code_artifact, publication.code_sha256],
                    "evaluation": dict(publication.evaluation),
                    "inputs": [[t.name, t.datatype, list(t.shape)] for t in publication.inputs],
                    "outputs": [[t.name, t.datatype, list(t.shape)] for t in publication.outputs],
                }
            )
        )
        return name


def main() -> int:
    """Entry point of the job's process."""
    if sys.argv[1:] == [WAIT]:
        load()
        if not wait_for_job():
            return 0
    job_dir, root = Path(os.environ["LEPTON_JOB_DIR"]), Path(os.environ["PLATFORM_DIR"])
    if (root / "freeze").exists():
        _freeze_after_first_checkpoint(root)
    seconds = 3600.0 if (root / "seldom").exists() else 0.05
    return execute(
        job_dir,
        lambda: LocalPlatform(root),
        lambda: Environments(root / "environments", 1 << 30),
        lambda: Keeping(seconds, max_bytes=1 << 30, last_seconds=5.0),
    )


def _freeze_after_first_checkpoint(root: Path) -> None:
    from lepton_training.worker import checkpoint
    from lepton_training.worker.trainer import Trainer

    Trainer.__init__.__kwdefaults__["checkpoint_seconds"] = 0.0  # after every step
    save = checkpoint.save

    def save_and_freeze(path: Path, state: checkpoint.Checkpoint) -> None:
        save(path, state)
        (root / "freeze").unlink()
        (root / "frozen").touch()
        signal.pause()

    checkpoint.save = save_and_freeze


if __name__ == "__main__":
    sys.exit(main())
