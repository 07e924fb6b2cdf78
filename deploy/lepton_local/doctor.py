"""What `lepton doctor` looks at: each thing, whether it is there, and the remedy if not."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lepton.client import ProfileError, config_path, load_profile
from lepton_local import ports, processes
from lepton_local.errors import RecordUnreadable
from lepton_local.home import Home
from lepton_local.programs import INSTALL, find_envoy, find_etcd
from lepton_mesh.errors import LeptonError

_NEEDED_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    level: str
    """``ok``, ``note`` (works, but not as well as it could) or ``missing``."""
    text: str

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def examine(home: Home, port: int) -> list[Finding]:
    """Looks at everything that a stack needs; never raises."""
    return [
        _python(),
        _program("etcd", find_etcd),
        _program("envoy", find_envoy),
        _libpython(),
        _accelerator(),
        _package("torch", "training"),
        _package("onnxruntime", "serving", alternative="onnxruntime-gpu"),
        _disk(home),
        _port(home, port),
        _profile(),
        _stack(home),
    ]


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", "ok", f"{version} at {sys.executable}")


def _program(name: str, find: Callable[[], Path]) -> Finding:
    try:
        return Finding(name, "ok", str(find()))
    except LeptonError as error:
        return Finding(name, "missing", error.message)


def _libpython() -> Finding:
    try:
        import find_libpython  # noqa: PLC0415  # may be absent, as above
        import pyvoy  # noqa: F401, PLC0415  # only whether it is there
    except ImportError as error:
        text = f"{error.name} is not installed; predictions are served by grpc.aio, more slowly"
        return Finding("libpython", "note", text)
    found = find_libpython.find_libpython()
    if found is None:
        return Finding(
            "libpython",
            "note",
            "this Python has no shared library, so predictions are served by grpc.aio, more "
            "slowly; use a Python built with --enable-shared (Debian: apt-get install "
            "libpython3-dev)",
        )
    return Finding("libpython", "ok", str(found))


def _accelerator() -> Finding:
    """What serving does on this machine: loads a model, and tells where that runs.

    The providers that ONNX Runtime lists are those that it was built with; one whose libraries
    are missing is on the list as well, and a session falls back to the CPU without a word.
    """
    try:
        from lepton_inference.adapters import onnx_runtime  # noqa: PLC0415  # may be absent
        from lepton_inference.settings import ModelSettings  # noqa: PLC0415  # as above
    except ImportError as error:
        return Finding("accelerator", "note", f"{error.name} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(_tiny_model())
        try:
            placement = onnx_runtime.examine(path, ModelSettings()).placement
        except LeptonError as error:
            return Finding("accelerator", "missing", f"models cannot be served: {error.message}")
    if placement.note:
        return Finding("accelerator", "note", f"models run on the CPU: {placement.note}")
    if placement.provider == "CPUExecutionProvider":
        return Finding("accelerator", "ok", "none; models run on the CPU")
    return Finding("accelerator", "ok", f"a session opened on {placement.provider}")


def _tiny_model() -> bytes:
    """Doubles its input; in versions of the format that every ONNX Runtime of ours reads."""
    from onnx import TensorProto, helper  # noqa: PLC0415  # comes with lepton_inference

    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in "xy"
    ]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])], "tiny", tensors[:1], tensors[1:]
    )
    model = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_operatorsetid("", 13)]
    )
    return bytes(model.SerializeToString())


def _package(name: str, what: str, alternative: str = "") -> Finding:
    for each in filter(None, (name, alternative)):
        try:
            return Finding(each, "ok", importlib.metadata.version(each))
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding(name, "missing", f"needed for {what}; {INSTALL} brings it")


def _disk(home: Home) -> Finding:
    place = _existing(home.path)
    if fault := _write_fault(place):
        text = f"{fault}; make it writable, or name another place with --home or LEPTON_HOME"
        return Finding("disk", "missing", text)
    free = shutil.disk_usage(place).free
    text = f"{free / 1024**3:.1f} GiB free at {place}"
    if free < _NEEDED_BYTES:
        return Finding("disk", "missing", f"{text}; a stack wants at least 2 GiB")
    return Finding("disk", "ok", text)


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there for this user."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            place.stat()
            return place
    return Path("/")


def _write_fault(directory: Path) -> str:
    """Why no file can be made in a directory; empty where one can."""
    try:
        with tempfile.TemporaryFile(dir=directory):
            return ""
    except OSError as error:
        return f"cannot write to {directory}: {error.strerror}"


def _port(home: Home, port: int) -> Finding:
    with contextlib.suppress(RecordUnreadable, OSError):  # told once, by _stack
        record = home.read()
        if record and processes.alive(record.supervisor):
            return Finding("port", "ok", f"{record.gateway} is this stack's own")
    return _try("port", lambda: ports.check_free(ports.LOOPBACK, port), f"{port} is free")


def _profile() -> Finding:
    if fault := _write_fault(_existing(config_path().parent)):
        text = f"{fault}, where `lepton up` keeps its profile; name another file with LEPTON_CONFIG"
        return Finding("profile", "missing", text)
    try:
        profile = load_profile()
    except ProfileError as error:
        return Finding("profile", "note", str(error))
    return Finding("profile", "ok", f"{profile.address}, in {config_path()}")


def _stack(home: Home) -> Finding:
    try:
        record = home.read()
    except RecordUnreadable as error:
        return Finding("stack", "missing", error.message)
    except OSError as error:
        return Finding("stack", "missing", f"{error.filename} cannot be read: {error.strerror}")
    if record is None:
        return Finding("stack", "note", f"not up in {home.path}; `lepton up` starts it")
    if not processes.alive(record.supervisor):
        why = record.error or "its supervisor is gone"
        return Finding("stack", "note", f"not running ({why}); `lepton up` starts it again")
    return Finding("stack", "ok", f"{record.state}, gateway at https://{record.gateway}")


def _try(name: str, check: Callable[[], None], text: str) -> Finding:
    try:
        check()
    except LeptonError as error:
        return Finding(name, "missing", str(error))
    return Finding(name, "ok", text)
