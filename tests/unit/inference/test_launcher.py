"""Starting Envoy: what is said when it does not come up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lepton_inference.envoy import DataPort
from lepton_inference.launcher import DataPortFailed, EnvoyProcess


class Process:
    """A child that has ended with ``returncode``, or, with None, never listens."""

    def __init__(self, returncode: int | None) -> None:
        self.returncode = returncode

    def poll(self) -> int | None:
        return self.returncode


@pytest.mark.parametrize(("returncode", "says"), [(None, "within 0.05 s"), (3, "status 3")])
async def test_a_port_that_does_not_come_up_says_why(
    tmp_path: Path, returncode: int | None, says: str
) -> None:
    """One error of the catalogue, whether Envoy hangs or has ended."""
    process: Any = Process(returncode)
    port = DataPort("none:app", "127.0.0.1", 0, tmp_path, None)
    with pytest.raises(DataPortFailed, match=says):
        await EnvoyProcess(process, port).address(0.05)
