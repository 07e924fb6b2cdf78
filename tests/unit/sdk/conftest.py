"""A gateway to call, and a profile file that is the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from lepton.client import Client
from tests.unit.sdk.fake_gateway import Gateway, serve


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def gateway(authority: trustme.CA, tmp_path: Path) -> Iterator[Gateway]:
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    yield from serve(authority, ca_file)


@pytest.fixture
def lepton(gateway: Gateway) -> Iterator[Client]:
    with Client(gateway.profile) as client:
        yield client


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config" / "lepton.yaml"
    monkeypatch.setenv("LEPTON_CONFIG", str(path))
    return path
