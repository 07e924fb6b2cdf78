"""The stack's hand on the authority: join tokens, and certificates that they are to replace."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from lepton_auth import offline
from lepton_local.authority import Authority
from lepton_local.home import Home
from lepton_mesh import credential_files


@pytest.fixture
async def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


async def _gateway_with(home: Home, dns: list[str], ip: list[str]) -> Authority:
    authority = await Authority.open(home)
    identity = home.service("gateway") / "identity"
    request = argparse.Namespace(service="gateway", dns=dns, ip=ip, out=identity, ttl_seconds=0)
    await offline.issue(authority._settings, request)
    return authority


async def test_a_certificate_with_the_names_wanted_is_kept(home: Home) -> None:
    authority = await _gateway_with(home, ["localhost"], ["127.0.0.1", "::1"])
    await authority.write_join_token("gateway", ["localhost"], ["::1", "127.0.0.1"])
    assert credential_files.load(home.service("gateway") / "identity") is not None


@pytest.mark.parametrize(
    ("dns", "ip"),
    [(["localhost"], ["127.0.0.1", "127.0.0.2"]), (["localhost", "tower"], ["127.0.0.1"])],
)
async def test_one_with_other_names_is_not(home: Home, dns: list[str], ip: list[str]) -> None:
    """It would be used for as long as it is valid, by a gateway that users call by other names."""
    authority = await _gateway_with(home, ["localhost"], ["127.0.0.1"])
    path = await authority.write_join_token("gateway", dns, ip)
    assert path.read_text().startswith("lpj_")
    assert path.stat().st_mode & 0o777 == 0o600
    assert credential_files.load(home.service("gateway") / "identity") is None
