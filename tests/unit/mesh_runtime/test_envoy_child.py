"""Envoy as a child: it answers on its admin socket, and never outlives its parent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_mesh.envoy_child import EnvoyAdmin

_PARENT = """
import subprocess, sys, time
from pathlib import Path
from lepton_mesh.envoy_child import envoy_command
child = subprocess.Popen(envoy_command(Path(sys.argv[1]), "--log-level", "off"))
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that has started an Envoy, and that Envoy's pid."""
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps({"admin": {"address": {"pipe": {"path": f"{tmp_path}/admin"}}}}))
    command = [sys.executable, "-c", _PARENT, str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            yield parent, child
        finally:
            parent.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


async def test_it_answers_and_ends_with_a_parent_that_is_killed(
    family: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    """Whatever the parent dies of: nothing is left that holds a port."""
    parent, child = family
    admin = EnvoyAdmin(tmp_path / "admin")
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                if "LIVE" in await admin.get("/ready"):
                    break
            await asyncio.sleep(0.02)
    assert json.loads(await admin.get("/server_info?format=json"))["state"] == "LIVE"

    watched = os.pidfd_open(child)
    parent.kill()

    assert select.select([watched], [], [], 10)[0]
    os.close(watched)


async def test_nobody_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    """Callers decide themselves what an Envoy that is not there (yet) means to them."""
    with pytest.raises(OSError, match="No such file"):
        await EnvoyAdmin(tmp_path / "admin").post("/quitquitquit")
