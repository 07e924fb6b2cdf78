"""What users are told of a job that failed: the reason, never the inside of the platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_mesh.errors import NotFound
from lepton_training.events import EventWriter, read_events
from lepton_training.failure import MESSAGE_MAX, ToldFailure, describe_failure


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (NotFound("it is gone"), "NOT_FOUND", "it is gone"),
        (ToldFailure("CODE_FAILED", "x" * 9000), "CODE_FAILED", "x" * (MESSAGE_MAX - 1) + "…"),
        (
            KeyError("/var/lib/lepton/secret"),
            "WORKER_ERROR",
            "internal error (KeyError); the job's log has the traceback",
        ),
        (
            OSError(5, "Input/output error", "/var/lib/lepton/jobs"),
            "WORKER_ERROR",
            "internal error (OSError); the job's log has the traceback",
        ),
    ],
    ids=["foreseen", "long", "a mistake", "of the machine"],
)
def test_a_failure_in_words(error: Exception, reason: str, message: str) -> None:
    assert describe_failure(error) == (reason, message)


def test_where_the_traceback_is() -> None:
    """Whoever writes it says where."""
    assert "; the log of x has" in describe_failure(ValueError("no"), "the log of x")[1]


def test_an_event_is_never_too_long_to_be_read(tmp_path: Path) -> None:
    """Whatever text is in it, those after it come too."""
    events = EventWriter(tmp_path)
    events.write("failed", reason="X", message="y" * (2 << 20))
    events.write("phase", phase="TRAINING", progress=0.5)
    first, second = read_events(tmp_path, 0)
    assert len(first.content["message"]) == MESSAGE_MAX
    assert second.content["phase"] == "TRAINING"
