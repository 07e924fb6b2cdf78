"""How the Envoy process is kept up, with a program in its place that hangs or fails when told."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lepton_gateway import supervisor
from lepton_gateway.supervisor import Envoy, EnvoyFailed

_PROGRAM = """
import os, socket, sys, time
admin, state = sys.argv[1:]
with open(os.path.join(state, "runs")) as file:
    now, *later = file.read().split()
with open(os.path.join(state, "runs"), "w") as file:
    file.write(" ".join(later) or now)
if now == "hangs":
    time.sleep(60)
if now == "fails":
    sys.exit("[2030-01-01][7][error][main] [source/server.cc:1] no such filter")
server = socket.socket(socket.AF_UNIX)
server.bind(admin)
server.listen()
while True:
    client, _ = server.accept()
    with client:
        verb, path, _ = client.recv(65536).decode().split(" ", 2)
        with open(os.path.join(state, "asked"), "a") as file:
            file.write(f"{verb} {path}\\n")
        if verb == "POST" and os.path.exists(os.path.join(state, "deaf")):
            continue
        client.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 5\\r\\n\\r\\nLIVE\\n")
"""


class Program:
    """What stands in for Envoy, and what it saw."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.admin = state / "admin.sock"
        self.log = state / "envoy.log"
        self.access_log = state / "access.log"
        self.envoy = Envoy(state / "bootstrap.json", self.admin, self.log, self.access_log, 1)
        self.runs("lives")

    def runs(self, *how: str) -> None:
        """How the next processes go: ``lives``, ``hangs`` or ``fails``; the last one stays."""
        (self.state / "runs").write_text(" ".join(how))

    def command(self, *_: object) -> list[str]:
        return [sys.executable, "-S", "-c", _PROGRAM, str(self.admin), str(self.state)]

    def reopened(self) -> int:
        """How often it was asked to open its logs anew."""
        return (self.state / "asked").read_text().count("POST /reopen_logs")


@pytest.fixture
async def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Program]:
    program = Program(tmp_path)
    monkeypatch.setattr(supervisor, "envoy_command", program.command)
    # Long for a process that sleeps, and not too short for one that starts on a busy machine.
    monkeypatch.setattr(supervisor, "START_SECONDS", 3.0)
    yield program
    await program.envoy.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def test_words_of_an_earlier_run_do_not_end_a_slow_start(program: Program) -> None:
    """What went wrong then is mended: this start gets its further tries."""
    program.log.write_text("[2030-01-01][7][error][main] [source/server.cc:1] old trouble\n")
    program.runs("hangs", "lives")
    await program.envoy.start()
    assert program.envoy.pid


async def test_a_start_that_fails_says_why(program: Program) -> None:
    """At once: the next try would be no better."""
    program.log.write_text("[2030-01-01][7][error][main] [source/server.cc:1] old trouble\n")
    program.runs("fails", "lives")
    with pytest.raises(EnvoyFailed, match="no such filter"):
        await program.envoy.start()
    assert program.envoy.pid == 0


async def test_a_start_that_hangs_is_given_up(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "START_SECONDS", 0.1)
    program.runs("hangs")
    with pytest.raises(EnvoyFailed, match=r"not ready within 0\.1 s"):
        await program.envoy.start()
    assert program.envoy.pid == 0


async def test_one_that_hangs_when_started_again_is_killed(program: Program) -> None:
    """Its users would wait for ever otherwise."""
    told: list[bool] = []
    program.envoy.on_change(told.append)
    await program.envoy.start()
    program.runs("hangs", "lives")
    os.kill(program.envoy.pid, signal.SIGKILL)
    await until(lambda: bool(told) and told[-1])
    assert told == [False, False, True]


async def test_logs_that_grow_are_begun_anew(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envoy is asked again until it heard that it should open the access log anew."""
    monkeypatch.setattr(supervisor, "_LOG_BYTES", 100)
    monkeypatch.setattr(supervisor, "_LOG_LOOK_SECONDS", 0.02)
    deaf = program.state / "deaf"
    deaf.touch()
    program.access_log.write_text("a request\n" * 20)
    await program.envoy.start()
    await until(lambda: program.reopened() > 2)
    assert (program.state / "access.log.1").read_text() == "a request\n" * 20
    assert not program.access_log.exists()
    deaf.unlink()
    program.log.write_text("a warning\n" * 20)
    await until(lambda: program.log.stat().st_size == 0)
    assert (program.state / "envoy.log.1").read_text() == "a warning\n" * 20
    asked = program.reopened()
    program.log.write_text("a warning\n" * 20)
    await until(lambda: program.log.stat().st_size == 0)
    assert program.reopened() == asked
