"""Entry point of a job's process: ``python -m lepton_training.worker [--wait]``.

With ``--wait`` it loads what jobs need and waits until it is given one.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from lepton_training.config import WorkerSettings
from lepton_training.standby import WAIT, wait_for_job
from lepton_training.worker.checkpoint_keeper import Keeping
from lepton_training.worker.execution import execute, load
from lepton_training.worker.mesh_platform import MeshPlatform
from lepton_training.worker.own.environments import Environments
from lepton_training.worker.own.job import check_confinement


def main() -> int:
    """Does the job in LEPTON_JOB_DIR; returns the exit status."""
    if sys.argv[1:] == [WAIT]:
        load()
        if not wait_for_job():
            return 0

    def environments() -> Environments:
        settings = WorkerSettings.load("job")
        check_confinement(allow_unconfined=settings.allow_unconfined_code)
        return Environments(settings.environments_dir, settings.environments_mib << 20)

    def keeping() -> Keeping:
        settings = WorkerSettings.load("job")
        return Keeping(
            settings.checkpoint_seconds, settings.checkpoint_mib << 20, settings.kill_grace_seconds
        )

    return execute(
        Path(os.environ["LEPTON_JOB_DIR"]),
        lambda: MeshPlatform(WorkerSettings.load("job")),
        environments,
        keeping,
    )


if __name__ == "__main__":
    status = main()
    # All is said and closed. Python's own end takes three seconds more, which the job would seem
    # to run for: it looks through all objects once more and waits for gRPC's threads.
    logging.shutdown()
    os._exit(status)
