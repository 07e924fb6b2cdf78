"""Entry point of a job's process: ``python -m lepton_training.worker``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lepton_training.config import WorkerSettings
from lepton_training.worker.execution import execute
from lepton_training.worker.mesh_platform import MeshPlatform


def main() -> int:
    """Does the job in LEPTON_JOB_DIR; returns the exit status."""
    return execute(
        Path(os.environ["LEPTON_JOB_DIR"]), lambda: MeshPlatform(WorkerSettings.load("job"))
    )


if __name__ == "__main__":
    sys.exit(main())
