"""The targets of the Makefile that no other test runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[3] / "Makefile"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("runtime", ["onnxruntime==1.2.3", "onnxruntime-gpu==1.2.3"])
def test_lock_pins_what_is_installed_in_a_fresh_checkout(tmp_path: Path, runtime: str) -> None:
    """There is no build directory yet; the comments at the top of the file stay."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    installed = ("torch==2.13.0+cpu", runtime, "Click==8.5.1")
    python.write_text("#!/bin/sh\n" + "".join(f"echo {each}\n" for each in installed))
    python.chmod(0o755)
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# Versions that were tested.\nclick==0\n")
    done = subprocess.run(
        ["make", "-f", str(MAKEFILE), "-o", "venv/.setup-dev", "lock", "VENV=venv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    comment, *pins = constraints.read_text().splitlines()
    assert comment == "# Versions that were tested."
    assert pins == [
        "Click==8.5.1",
        "onnxruntime==1.2.3",
        "onnxruntime-gpu==1.2.3",
        "torch==2.13.0",
    ]
