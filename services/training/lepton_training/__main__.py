"""The training service: ``python -m lepton_training``.

``python -m lepton_training stop-jobs STATE_DIR`` ends every job's process that a
service with this state directory started, and returns when none is left; the
jobs go on from their checkpoints when the service starts again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lepton_mesh.process import run_service
from lepton_training import bootstrap
from lepton_training.config import TrainingSettings
from lepton_training.process import stop_recorded


def main() -> None:
    """Serves, or stops what a service has left running."""
    if sys.argv[1:2] == ["stop-jobs"] and len(sys.argv) == 3:
        stop_recorded(Path(sys.argv[2]) / "jobs")
    elif len(sys.argv) == 1:
        run_service("training", TrainingSettings, bootstrap.build)
    else:
        sys.exit("usage: python -m lepton_training [stop-jobs STATE_DIR]")


if __name__ == "__main__":
    main()
