"""What a process logs may be changed while it runs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from lepton_mesh import logs
from lepton_mesh.logs import LogSettings

log = logging.getLogger("test_log_settings")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where this process logs to; what was there before is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    written = io.StringIO()
    logs.configure("inference", "one", stream=written)
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)


def write_all() -> None:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(level, "event")


def levels(stream: io.StringIO) -> list[str]:
    return [json.loads(line)["level"] for line in stream.getvalue().splitlines()]


def test_each_level_is_switched_by_itself(stream: io.StringIO) -> None:
    """Also one below others that are off; what is worse than an error goes with errors."""
    assert logs.settings() == LogSettings()
    logs.change_settings(LogSettings(debug=True, info=False, warning=True, error=False))
    write_all()
    assert levels(stream) == ["debug", "warning"]
    assert log.isEnabledFor(logging.DEBUG)
    logs.change_settings(LogSettings(info=False, warning=False))
    write_all()
    assert levels(stream)[2:] == ["error", "critical"]
    assert not log.isEnabledFor(logging.WARNING)


def test_nothing_is_an_answer_too(stream: io.StringIO) -> None:
    """With every level off."""
    logs.change_settings(LogSettings(info=False, warning=False, error=False))
    write_all()
    assert stream.getvalue() == ""


def test_the_format_changes_with_the_next_record(stream: io.StringIO) -> None:
    """And back, with the service's name in it again."""
    logs.change_settings(replace(logs.settings(), format="console"))
    log.info("event")
    assert "info    test_log_settings: event" in stream.getvalue()
    logs.change_settings(replace(logs.settings(), format="json"))
    log.info("event")
    assert json.loads(stream.getvalue().splitlines()[-1])["service"] == "inference"


@pytest.mark.parametrize(
    ("level", "settings"),
    [
        ("debug", LogSettings(debug=True)),
        ("info", LogSettings()),
        ("warning", LogSettings(info=False)),
        ("error", LogSettings(info=False, warning=False)),
    ],
)
def test_the_level_at_start_is_one_of_them(
    stream: io.StringIO, level: str, settings: LogSettings
) -> None:
    """What a service is configured with is what it says."""
    logs.configure("inference", "one", level=level, stream=stream)
    assert logs.settings() == settings


def test_a_process_that_logs_otherwise_has_none() -> None:
    """It is not this module's to change."""
    with pytest.raises(LookupError):
        logs.settings()
