"""What a job's process is given of the service's environment, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_local.processes import MARK
from lepton_training import bootstrap
from lepton_training.config import TrainingSettings


def test_a_job_carries_the_mark_of_its_stack_and_none_of_the_services_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The mark is how `lepton down` finds a job that outlived its service."""
    monkeypatch.setenv(MARK, "/a/stack")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    settings = TrainingSettings(state_dir=tmp_path, database_url="postgresql://u:secret@h/d")
    environment = bootstrap._worker_environment(settings)
    assert environment[MARK] == "/a/stack"
    assert "secret" not in " ".join(environment.values())
