"""Which etcd the local stack starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_local import etcd
from lepton_local.etcd import EtcdMissing, etcd_command, find_etcd, packaged_etcd
from lepton_local.tls_files import TlsFiles


def program(directory: Path, content: bytes) -> Path:
    directory.mkdir()
    path = directory / "etcd"
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def test_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = program(tmp_path / "bin", b"\x7fELF")
    monkeypatch.setenv("PATH", str(found.parent))
    assert find_etcd() == found


def test_the_packages_launcher_is_not_taken_for_etcd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher would be killed instead of etcd, or not find its interpreter."""
    monkeypatch.setenv("PATH", str(program(tmp_path / "bin", b"#!/usr/bin/python").parent))
    assert find_etcd() == packaged_etcd()


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to get one."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(etcd, "packaged_etcd", lambda: None)
    with pytest.raises(EtcdMissing, match="apt install"):
        find_etcd()


def test_command_has_no_unsafe_option_and_one_port(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path / "c", tmp_path / "k", tmp_path / "ca")
    command = etcd_command(
        Path("/bin/etcd"), data_dir=tmp_path, client_address="127.0.0.1:5", files=files
    )
    assert not [option for option in command if option.startswith("--unsafe")]
    assert "--client-cert-auth=true" in command
    listens = [option for option in command if option.startswith("--listen")]
    assert listens == [
        "--listen-client-urls=https://127.0.0.1:5",
        "--listen-peer-urls=unix://peer:0",
    ]
