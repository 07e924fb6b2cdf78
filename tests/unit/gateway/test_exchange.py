"""API keys become tokens, once for as long as that is safe."""

from __future__ import annotations

import asyncio

import pytest

from lepton_gateway import exchange
from lepton_gateway.exchange import ApiKeyExchange, IssuedToken
from lepton_mesh.errors import Unauthenticated


class Auth:
    def __init__(self, life: float = 900) -> None:
        self.now = 1000.0
        self.life = life
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def issue(self, key: str) -> IssuedToken:
        self.asked.append(key)
        await self.gate.wait()
        if key.startswith("bad"):
            raise Unauthenticated("no such key")
        return IssuedToken(f"token-{len(self.asked)}", self.now + self.life)

    def exchange(self, hold_seconds: float = 60) -> ApiKeyExchange:
        return ApiKeyExchange(self.issue, hold_seconds, clock=lambda: self.now)


async def test_a_token_is_used_again_for_a_while() -> None:
    """Then the auth service is asked anew, so that a revoked key stops working."""
    auth = Auth()
    keys = auth.exchange(hold_seconds=60)
    assert await keys.token("k") == await keys.token("k") == "token-1"
    auth.now += 59
    assert await keys.token("k") == "token-1"
    auth.now += 2
    assert await keys.token("k") == "token-2"


async def test_a_token_near_its_end_is_not_held() -> None:
    """A request that it goes with should not meet its expiry."""
    auth = Auth(life=61)
    keys = auth.exchange(hold_seconds=600)
    await keys.token("k")
    auth.now += 1.5
    assert await keys.token("k") == "token-2"


async def test_requests_at_one_time_share_an_exchange() -> None:
    """Even if the first of them leaves."""
    auth = Auth()
    auth.gate.clear()
    keys = auth.exchange()
    tasks = [asyncio.create_task(keys.token("k")) for _ in range(10)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    auth.gate.set()
    assert set(await asyncio.gather(*tasks[1:])) == {"token-1"}
    assert auth.asked == ["k"]


async def test_refusals_are_not_held() -> None:
    """A key that was just made works at once, and each caller gets the reason."""
    auth = Auth()
    keys = auth.exchange()
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await keys.token("bad")
    assert auth.asked == ["bad", "bad"]


async def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key unused for longest makes room."""
    monkeypatch.setattr(exchange, "MAX_KEYS", 2)
    auth = Auth()
    keys = auth.exchange()
    for key in ("a", "b", "a", "c", "a"):
        await keys.token(key)
    assert auth.asked == ["a", "b", "c"]
    await keys.token("b")
    assert auth.asked == ["a", "b", "c", "b"]


async def test_made_up_keys_do_not_pile_up() -> None:
    """Beyond a number at a time they are refused here, known keys are not."""
    auth = Auth()
    keys = auth.exchange()
    await keys.token("known")
    auth.gate.clear()
    tasks = [asyncio.create_task(keys.token(f"k{n}")) for n in range(exchange.MAX_RUNNING)]
    await asyncio.sleep(0)
    with pytest.raises(exchange.TooManyExchanges):
        await keys.token("one more")
    assert await keys.token("known") == "token-1"
    auth.gate.set()
    await asyncio.gather(*tasks)


async def test_keys_are_held_as_digests_only() -> None:
    """A dump of the process' memory should not be a list of keys."""
    keys = Auth().exchange()
    await keys.token("lpk_secret")
    assert all(isinstance(held, bytes) and b"lpk" not in held for held in keys._held)
