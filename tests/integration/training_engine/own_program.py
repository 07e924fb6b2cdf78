"""Runs a script as a user's code is run, and tells how it ended, as JSON.

``own_program.py SCRIPT PROCESSES``: a process of its own, for what it does to its descendants.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_mesh.errors import LeptonError
from lepton_training.failure import ToldFailure, describe_failure
from lepton_training.process import descendants
from lepton_training.worker.own import program
from lepton_training.worker.own.program import Program, Stopping, become_subreaper


def main() -> None:
    """Runs it and prints one line."""
    logging.basicConfig(level=logging.INFO)
    program._LAST_SECONDS = 0.3
    messages: list[object] = []

    def take(message: Mapping[str, Any]) -> None:
        if message["kind"] == "burst":
            raise RuntimeError("a mistake of the platform's own")
        messages.append(message)

    become_subreaper()
    run = Program(take, processes_max=int(sys.argv[2]), reasons=frozenset({"DISK_FULL"}))
    outcome = ["", ""]
    try:
        run.run([sys.executable, "-c", sys.argv[1]], Path.cwd(), os.environ)
    except (LeptonError, ToldFailure) as error:
        outcome = list(describe_failure(error))
    except RuntimeError as error:
        outcome = ["MISTAKE", str(error)]
    except Stopping:
        outcome = ["STOPPED", ""]
    left = descendants(os.getpid())
    sys.stdout.write(json.dumps({"outcome": outcome, "messages": messages, "left": left}))


if __name__ == "__main__":
    main()
