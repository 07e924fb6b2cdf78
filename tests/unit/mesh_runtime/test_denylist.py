"""The list of revoked certificates, across a restart while the auth service is away."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from lepton_mesh.peers import Denylist


async def revoked() -> Iterable[str]:
    return ["ab", "cd"]


async def away() -> Iterable[str]:
    raise ConnectionError


async def test_the_last_list_outlives_the_process(tmp_path: Path) -> None:
    """Who was revoked stays out although nobody can be asked; its age is known."""
    file, told = tmp_path / "denylist.json", list[float]()
    first = Denylist(revoked, file=file, on_fetched=told.append)
    await first.refresh()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    second = Denylist(away, file=file, on_fetched=told.append)
    second.start()
    try:
        assert "ab" in second
        assert "ef" not in second
        await second.refresh()
        assert "cd" in second
    finally:
        await second.close()
    assert len(told) == 2
    assert told[0] == told[1]


async def test_a_newer_list_is_not_replaced_by_the_kept_one(tmp_path: Path) -> None:
    file = tmp_path / "denylist.json"
    await Denylist(revoked, file=file).refresh()
    denylist = Denylist(away, file=file)
    denylist.replace(["ef"])
    denylist.load()
    assert "ef" in denylist
    assert "ab" not in denylist


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"serials": 5, "fetched": 1}'])
async def test_what_cannot_be_read_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """It does not keep the service from starting, and is said."""
    file = tmp_path / "denylist.json"
    file.write_bytes(content)
    denylist = Denylist(away, file=file)
    denylist.load()
    assert "not readable" in caplog.text
    assert "ab" not in denylist
