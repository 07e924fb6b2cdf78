"""What all tests share: real data where there is some, and an environment without our settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# A worker of pytest-xdist is started from an environment that was cleared here: see below.
_WORKER_INPUT = "real_data"

# Whoever runs the tests may have a stack, a profile or a service's settings in the environment;
# a test means its own. Done before any test is imported.
_REAL_DATA = os.environ.pop("LEPTON_TEST_DATA", "")
for _name in [name for name in os.environ if name.startswith(("LEPTON_", "_LEPTON_"))]:
    del os.environ[_name]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tells a worker of pytest-xdist what the environment said."""
    node.workerinput[_WORKER_INPUT] = _REAL_DATA


@pytest.fixture(scope="session")
def real_data(pytestconfig: pytest.Config) -> Path:
    """The folder that ``LEPTON_TEST_DATA`` names: ``mnist/``, ``adult/`` and so on."""
    folder = getattr(pytestconfig, "workerinput", {_WORKER_INPUT: _REAL_DATA})[_WORKER_INPUT]
    if not folder:
        pytest.skip("LEPTON_TEST_DATA does not name a folder with real data")
    return Path(folder)


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """The trainer has its process take denormal numbers for zero, which others' tests compare."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)
