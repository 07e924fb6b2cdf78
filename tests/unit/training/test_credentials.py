"""A job's token: replaced while it runs, and read for each thing that the job asks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lepton_mesh.caller import outgoing_credentials
from lepton_training.worker.mesh_platform import MeshPlatform


async def _nothing(_platform: MeshPlatform) -> None:
    """In place of joining the mesh."""


def test_what_a_job_asks_carries_the_token_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that it began with would have ended before a job of weeks registers its model."""
    (tmp_path / "job.json").write_text(json.dumps({"workspace": "w", "job": "jobs/j"}))
    monkeypatch.setattr(MeshPlatform, "_open", _nothing)
    settings: Any = SimpleNamespace(job_dir=tmp_path)
    (tmp_path / "access-token").write_text("first\n")
    platform = MeshPlatform(settings)

    async def presented() -> str:
        return outgoing_credentials().token

    assert platform._run(presented()) == "first"
    (tmp_path / "access-token").write_text("second\n")
    assert platform._run(presented()) == "second"
