"""The command line of the local stack's etcd."""

from __future__ import annotations

from pathlib import Path

from lepton_local.etcd import etcd_command
from lepton_local.tls_files import TlsFiles


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
