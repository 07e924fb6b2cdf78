"""One stack for all end-to-end tests, started and stopped by the commands that users type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LEPTON = Path(sys.executable).parent / "lepton"

SPEC = """
recipe: mlp
dataset: datasets/session/versions/latest
model: models/session
seed: 7
hyperparameters:
  epochs: 2
"""


@dataclass(frozen=True)
class Command:
    """The ``lepton`` command with a stack and a profile file of its own."""

    home: Path
    config: Path

    @property
    def environ(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")},
            "LEPTON_HOME": str(self.home),
            "LEPTON_CONFIG": str(self.config),
        }

    def __call__(
        self, *arguments: str | Path, stdin: str | None = None, timeout: float = 150
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, whatever that is."""
        return subprocess.run(
            [LEPTON, *map(str, arguments)],
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ok(self, *arguments: str | Path, stdin: str | None = None, timeout: float = 150) -> str:
        """Runs a command that must succeed; returns its stdout."""
        done = self(*arguments, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str | Path, stdin: str | None = None, timeout: float = 150) -> Any:
        """Runs a command with ``-o json`` that must succeed; returns what it printed."""
        return json.loads(self.ok(*arguments, "-o", "json", stdin=stdin, timeout=timeout))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four IDX files: 400 real handwritten digits, 8x8."""
    from lepton_local.demo.dataset import write_digits

    return write_digits(tmp_path_factory.mktemp("digits"), limit=400)


@pytest.fixture(scope="session")
def lepton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command, with a stack that is up."""
    directory = tmp_path_factory.mktemp("stack")
    command = Command(directory / "home", directory / "config.yaml")
    try:
        command.ok("up", "--port", "0")
        yield command
    finally:
        command("down")


@pytest.fixture(scope="session")
def trained(lepton: Command, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model version that was trained by the commands that users type."""
    spec = tmp_path_factory.mktemp("spec") / "spec.yaml"
    spec.write_text(SPEC)
    version = lepton.json("data", "push", "session", digits)
    assert version["name"] == "datasets/session/versions/1"
    assert version["statistics"]["train_examples"] == "320"
    job = lepton.json("job", "create", "-f", spec, "--follow")
    assert job["state"] == "SUCCEEDED"
    return str(job["model_version"])
