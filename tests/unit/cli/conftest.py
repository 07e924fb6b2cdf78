"""The command, run in this process or in one of its own, against a gateway of the test's."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from lepton.cli import main
from lepton.client import save_profile
from tests.unit.sdk.fake_gateway import Gateway, serve

LEPTON = Path(sys.executable).parent / "lepton"
_REASON = re.compile(r" \[[A-Z_]+\]$")
"""What each failure that is told of ends in."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, which must be JSON and nothing else."""
        return json.loads(self.out)


class Command:
    """Runs ``lepton`` in this process, as the installed script would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object, stdin: str = "") -> Done:
        self._monkeypatch.setattr(sys, "argv", ["lepton", *map(str, arguments)])
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capsys.readouterr()
        told = [line for line in err.splitlines() if line.startswith("lepton: ")]
        assert all(_REASON.search(line) for line in told) or ended.value.code == 130, err
        return Done(int(ended.value.code or 0), out, err)

    def ok(self, *arguments: object, stdin: str = "") -> Done:
        """Runs a command that must succeed."""
        done = self(*arguments, stdin=stdin)
        assert done.code == 0, done
        return done

    def json(self, *arguments: object, stdin: str = "") -> Any:
        """Runs a command with ``-o json`` that must succeed; returns what it printed."""
        return self.ok(*arguments, "-o", "json", stdin=stdin).json


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile file of the test's own, and no setting of the person who runs the tests."""
    for name in list(os.environ):
        # Unbuffered, Python would not show what it does with a reader that is gone.
        if name.startswith(("LEPTON_", "_LEPTON_")) or name == "PYTHONUNBUFFERED":
            monkeypatch.delenv(name)
    path = tmp_path / "config" / "lepton.yaml"
    monkeypatch.setenv("LEPTON_CONFIG", str(path))
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    return path


@pytest.fixture
def gateway(authority: trustme.CA, tmp_path: Path, config: Path) -> Iterator[Gateway]:
    """A gateway, and a current profile for it."""
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    for gateway in serve(authority, ca_file):
        save_profile("test", gateway.profile)
        yield gateway


@pytest.fixture
def lepton(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def process(*arguments: object, **options: Any) -> subprocess.Popen[Any]:
    """``lepton`` in a process of its own, which Ctrl-C ends also where we ignore it."""
    pipes: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    # A shell starts what runs in its background with SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [LEPTON, *map(str, arguments)], **({"text": True} | pipes | options)
        )
    finally:
        signal.signal(signal.SIGINT, before)
