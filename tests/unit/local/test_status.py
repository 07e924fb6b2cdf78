"""What `lepton status` shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lepton_local.home import SERVICES, ProcessRecord, StackRecord
from lepton_local.mesh import Seen
from lepton_local.status import Report
from lepton_mesh.discovery import Instance

RECORD = StackRecord(
    state="READY",
    supervisor=ProcessRecord(1, 0.0),
    gateway="localhost:8443",
    seconds_to_ready=6.5,
    processes={"storage": ProcessRecord(2, 0.0, restarts=4)},
)


def seen(service: str, health: str = "SERVING", *, minutes: float | None = 59.9) -> Seen:
    end = "" if minutes is None else (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    instance = Instance(
        service=service,
        instance=f"{service}-1",
        address="127.0.0.1:5",
        version="0.1.0",
        cert_not_after=end,
    )
    return Seen(instance, health)


def test_the_table_shows_what_is_there_and_what_is_missing() -> None:
    lines = Report(RECORD, [seen("storage"), seen("auth", "UNREACHABLE")]).table().splitlines()
    assert lines[:2] == ["DEGRADED at https://localhost:8443", ""]
    rows = [line.split() for line in lines[3:]]
    assert rows[0] == ["storage", "SERVING", "127.0.0.1:5", "0.1.0", "60", "min", "4", "storage-1"]
    assert rows[1][:2] == ["auth", "UNREACHABLE"]
    assert rows[2:] == [
        [service, "MISSING", "0"] for service in ("gateway", "inference", "registry", "training")
    ]


def test_a_stack_of_which_a_service_does_not_answer_is_not_ready() -> None:
    """Neither in the headline nor for programs."""
    everyone = [seen(service) for service in SERVICES]
    ready, degraded = (
        Report(RECORD, each) for each in (everyone, [seen("auth", "UNREACHABLE"), *everyone[1:]])
    )
    assert ready.table().startswith("READY at ")
    assert degraded.table().startswith("DEGRADED at ")
    assert (ready.plain()["state"], degraded.plain()["state"]) == ("READY", "DEGRADED")
    assert Report(replace(RECORD, state="STOPPING"), everyone[1:]).state == "STOPPING"


def test_columns_line_up() -> None:
    head, *rows = (
        Report(RECORD, [seen("storage"), seen("auth", "UNREACHABLE")]).table().split("\n")[2:]
    )
    column = head.index("INSTANCE")
    assert {row[column:] for row in rows} == {"storage-1", "auth-1", ""}
    assert all(row == row.rstrip() for row in rows)


@pytest.mark.parametrize(
    ("minutes", "shown"), [(59.9, "60 min"), (-1, "expired"), (None, "0.1.0  ")]
)
def test_the_time_that_a_certificate_has_left(minutes: float | None, shown: str) -> None:
    assert shown in Report(RECORD, [seen("auth", minutes=minutes)]).table()


def test_healthy_is_one_that_serves_of_every_service() -> None:
    everyone = [seen(service) for service in SERVICES]
    assert Report(RECORD, everyone).healthy
    assert Report(RECORD, [*everyone, seen("auth", "UNREACHABLE")]).healthy
    assert not Report(RECORD, [seen("auth", "NOT_SERVING"), *everyone[1:]]).healthy
    assert not Report(RECORD, everyone[1:]).healthy


def test_plain_data_has_what_programs_ask_for() -> None:
    plain = Report(RECORD, [seen("storage")]).plain()
    assert plain["gateway"] == "localhost:8443"
    (instance,) = plain["instances"]
    assert instance["service"] == "storage"
    assert instance["restarts"] == 4
    assert instance["health"] == "SERVING"
    assert {"ports", "address", "certificate_expires", "started", "version"} <= set(instance)
