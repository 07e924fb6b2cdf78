"""The gateway follows the auth service's key set, whatever fails on the way."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from pathlib import Path

import pytest

from lepton_gateway import signing_keys
from lepton_gateway.signing_keys import Jwks, SigningKeys

FIRST: Jwks = {"keys": [{"kid": "first"}]}
SECOND: Jwks = {"keys": [{"kid": "second"}]}


class Follower:
    """A key set at the auth service, and what of it took effect here."""

    def __init__(self, cache_file: Path) -> None:
        self.offered = FIRST
        self.applied: list[Jwks] = []
        self.full_disk = False
        self.asked = asyncio.Event()
        self.changed = asyncio.Event()
        self.keys = SigningKeys(self._fetch, self._apply, cache_file, refresh_seconds=0.01)

    async def _fetch(self) -> Jwks:
        self.asked.set()
        return self.offered

    def _apply(self, jwks: Jwks) -> None:
        if self.full_disk:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.applied.append(jwks)
        self.changed.set()

    async def turns(self, number: int) -> None:
        """Waits until the auth service was asked so often from now on."""
        for _ in range(number):
            self.asked.clear()
            await asyncio.wait_for(self.asked.wait(), 5)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_keys, "_RETRY_SECONDS", 0.01)


async def test_keys_that_could_not_be_applied_are_applied_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that was full for a moment must not leave the gateway without keys."""
    follower = Follower(tmp_path / "jwks.json")
    follower.full_disk = True
    with caplog.at_level(logging.WARNING):
        await follower.keys.start()
        await follower.turns(2)
    assert {record.getMessage() for record in caplog.records} == {
        "signing keys fetched but not applied"
    }
    follower.full_disk = False
    await asyncio.wait_for(follower.changed.wait(), 5)
    await follower.turns(2)
    assert follower.applied == [FIRST]
    await follower.keys.close()


async def test_a_set_is_applied_once_and_the_next_one_too(tmp_path: Path) -> None:
    """An equal set changes nothing, so Envoy is left alone."""
    follower = Follower(tmp_path / "jwks.json")
    await follower.keys.start()
    await follower.turns(3)
    follower.offered = SECOND
    await follower.turns(3)
    assert follower.applied == [FIRST, SECOND]
    await follower.keys.close()


async def test_a_set_that_could_not_be_kept_is_kept_later(tmp_path: Path) -> None:
    """It is in effect at once, and a restart without the auth service finds it."""
    away = tmp_path / "away"
    follower = Follower(away / "jwks.json")
    await follower.keys.start()
    await follower.turns(2)
    assert follower.applied == [FIRST]
    away.mkdir()
    await follower.turns(3)
    await follower.keys.close()
    assert json.loads((away / "jwks.json").read_text()) == FIRST
    restarted = Follower(away / "jwks.json")
    await restarted.keys.start()
    assert restarted.applied == [FIRST]
    await restarted.keys.close()


async def test_a_broken_cache_is_no_cache(tmp_path: Path) -> None:
    """The auth service is asked all the same."""
    (tmp_path / "jwks.json").write_text("[]")
    follower = Follower(tmp_path / "jwks.json")
    await follower.keys.start()
    await asyncio.wait_for(follower.changed.wait(), 5)
    assert follower.applied == [FIRST]
    await follower.keys.close()
