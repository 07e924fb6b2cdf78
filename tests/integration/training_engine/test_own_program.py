"""What a user's code may do to the process that runs it: each has a reason, and nothing stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lepton_training import process

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent
SAY = (
    "import json, os, signal, sys, time\n"
    "def say(**message):\n"
    "    os.write(int(sys.argv[1]), (json.dumps(message) + '\\n').encode())\n"
)
LEAVE = (
    "def leave():\n"  # away from session, parent and environment
    "    if os.fork() == 0:\n"
    "        os.setsid()\n"
    "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "        if os.fork() == 0:\n"
    "            os.execve('/bin/sleep', ['sleep', '600'], {})\n"
    "        os._exit(0)\n"
    "    os.wait()\n"
)


def run(script: str, directory: Path, processes: int = 10) -> tuple[dict[str, Any], str]:
    """How the script ended, and the log."""
    done = subprocess.run(
        [sys.executable, str(HERE / "own_program.py"), SAY + LEAVE + script, str(processes)],
        cwd=directory,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout), done.stderr.decode()


@pytest.mark.parametrize(
    ("script", "reason", "message"),
    [
        ("say(kind='finished')", "", ""),
        ("leave(); say(kind='finished')", "", ""),
        ("sys.exit(3)", "CODE_EXITED", "ended with status 3 before it was done"),
        ("os._exit(0)", "CODE_EXITED", "ended with status 0 before it was done"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "CODE_KILLED", "ended by SIGSEGV"),
        ("os.kill(0, signal.SIGKILL)", "CODE_KILLED", "often the machine was out of memory"),
        ("raise ValueError", "CODE_EXITED", "status 1"),
        ("leave(); say(kind='failed', reason='DISK_FULL', message='x')", "DISK_FULL", "x"),
        (
            "say(kind='failed', reason='SECRET', message='y' * 5000); sys.exit(1)",
            "CODE_FAILED",
            "y" * 2000,
        ),
        (
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "say(kind='failed', reason='DISK_FULL', message='goes on'); time.sleep(600)",
            "DISK_FULL",
            "goes on",
        ),
        ("say(kind='finished'); time.sleep(600)", "", ""),
        ("os.kill(os.getppid(), signal.SIGTERM); time.sleep(600)", "STOPPED", ""),
        (
            "for _ in range(6):\n    if os.fork() == 0: time.sleep(600)\ntime.sleep(600)",
            "CODE_PROCESSES",
            "7 processes at a time, and may have 3",
        ),
        ("os.write(int(sys.argv[1]), b'[1]\\n'); time.sleep(600)", "METRICS_INVALID", "no message"),
        (
            "os.write(int(sys.argv[1]), b'{\"kind\":' + b'[' * 100000 + b'\\n'); time.sleep(600)",
            "METRICS_INVALID",
            "no message",
        ),
        (
            "os.write(int(sys.argv[1]), b'x' * 300000); time.sleep(600)",
            "METRICS_INVALID",
            "more than 256 KiB",
        ),
        (
            "leave(); say(kind='burst'); time.sleep(600)",
            "MISTAKE",
            "of the platform's own",
        ),
    ],
    ids=[
        "finishes",
        "finishes and leaves one behind",
        "sys.exit",
        "os._exit",
        "crashes",
        "kills its group",
        "raises before it can say so",
        "fails and leaves one behind",
        "says what it may not",
        "fails and ignores signals",
        "finishes and does not end",
        "is stopped with the platform's process",
        "forks too much",
        "says nonsense",
        "says what is nested too deeply",
        "says too much",
        "meets a mistake of the platform",
    ],
)
def test_however_it_ends_nothing_stays(
    tmp_path: Path, script: str, reason: str, message: str
) -> None:
    """The reason and the message; every process that it started is gone."""
    ended, _ = run(script, tmp_path, processes=3)
    assert ended["outcome"][0] == reason, ended
    assert message in ended["outcome"][1]
    assert ended["left"] == []


def test_its_output_is_bounded(tmp_path: Path) -> None:
    """Of twenty megabytes the beginning is kept and the very end, with the number that is not."""
    script = (
        "for n in range(200): print(f'line {n} ' + 'x' * 100_000)\nprint('the end'); sys.exit(1)"
    )
    _, log = run(script, tmp_path)
    assert 8 << 20 < len(log) < 9 << 20
    assert "line 0 " in log and "the end" in log.splitlines()[-1]
    assert "bytes of output are left out here" in log


def test_what_left_its_session_is_found_again(tmp_path: Path) -> None:
    """By its mark where its parent is gone, by its parent where its mark is."""
    leaves = (
        SAY
        + LEAVE
        + (
            "if os.fork() == 0: os.setsid(); (os.fork() == 0) and time.sleep(600); os._exit(0)\n"
            "os.wait()\n"
        )
    )
    held = leaves + (
        "from lepton_training.worker.own.program import become_subreaper\n"
        "become_subreaper(); leave(); open('left', 'w').close(); time.sleep(600)"
    )
    found = process.start([sys.executable, "-c", leaves], tmp_path, os.environ)
    os.waitpid(found.pid, 0)
    assert process.group_alive(found)
    process.signal_group(found, signal.SIGKILL)
    assert not process.group_alive(found)

    found = process.start([sys.executable, "-c", held], tmp_path, os.environ)
    try:
        while not (tmp_path / "left").exists():
            assert process.is_alive(found)
        left = process.descendants(found.pid)
        assert len(left) == 1
    finally:
        process.signal_group(found, signal.SIGKILL)
        os.waitpid(found.pid, 0)
    assert not process.group_alive(found)
    assert not any(Path(f"/proc/{pid}").exists() and _alive(pid) for pid in left)


def _alive(pid: int) -> bool:
    return " Z " not in Path(f"/proc/{pid}/stat").read_text()
