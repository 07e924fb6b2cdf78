"""API keys become tokens, once for as long as that is safe."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from lepton_gateway import exchange
from lepton_gateway.exchange import ApiKeyExchange, IssuedToken
from lepton_mesh.errors import Unauthenticated, Unavailable

HOME = "192.0.2.1"
ELSEWHERE = "198.51.100.7"


def key(name: str) -> str:
    """A well-formed key of that name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"lpk_{digest[:16]}_{digest[:43]}"


class Auth:
    def __init__(self, life: float = 900) -> None:
        self.now = 1000.0
        self.life = life
        self.asked: list[str] = []
        self.unknown = {key("bad")}
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def issue(self, api_key: str) -> IssuedToken:
        self.asked.append(api_key)
        await self.gate.wait()
        if self.away:
            raise Unavailable("no instance of auth")
        if api_key in self.unknown:
            raise Unauthenticated("no such key")
        return IssuedToken(f"token-{len(self.asked)}", self.now + self.life)

    def exchange(self, hold_seconds: float = 60) -> ApiKeyExchange:
        return ApiKeyExchange(self.issue, hold_seconds, clock=lambda: self.now)


async def test_a_token_is_used_again_for_a_while() -> None:
    """Then the auth service is asked anew, so that a revoked key stops working."""
    auth = Auth()
    keys = auth.exchange(hold_seconds=60)
    assert await keys.token(key("k"), HOME) == await keys.token(key("k"), HOME) == "token-1"
    auth.now += 59
    assert await keys.token(key("k"), HOME) == "token-1"
    auth.now += 2
    assert await keys.token(key("k"), HOME) == "token-2"


async def test_a_token_near_its_end_is_not_held() -> None:
    """A request that it goes with should not meet its expiry."""
    auth = Auth(life=61)
    keys = auth.exchange(hold_seconds=600)
    await keys.token(key("k"), HOME)
    auth.now += 1.5
    assert await keys.token(key("k"), HOME) == "token-2"


async def test_requests_at_one_time_share_an_exchange() -> None:
    """Even if the first of them leaves."""
    auth = Auth()
    auth.gate.clear()
    keys = auth.exchange()
    tasks = [asyncio.create_task(keys.token(key("k"), HOME)) for _ in range(10)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    auth.gate.set()
    assert set(await asyncio.gather(*tasks[1:])) == {"token-1"}
    assert auth.asked == [key("k")]


@pytest.mark.parametrize("text", ["", "k", "lpk_good", key("k") + "=", key("k").upper()])
async def test_what_is_no_key_is_refused_here(text: str) -> None:
    """The auth service is not asked about it."""
    auth = Auth()
    with pytest.raises(Unauthenticated):
        await auth.exchange().token(text, HOME)
    assert auth.asked == []


async def test_a_refusal_is_held_for_a_moment() -> None:
    """A client that tries one bad key again and again costs the auth service next to nothing."""
    auth = Auth()
    keys = auth.exchange()
    for _ in range(3):
        with pytest.raises(Unauthenticated, match="no such key"):
            await keys.token(key("bad"), HOME)
    assert len(auth.asked) == 1
    auth.unknown.clear()
    auth.now += exchange.REFUSED_SECONDS
    assert await keys.token(key("bad"), HOME) == "token-2"


async def test_an_auth_service_that_is_away_refuses_nobody() -> None:
    """The key works as soon as the auth service is back."""
    auth = Auth()
    keys = auth.exchange()
    auth.away = True
    with pytest.raises(Unavailable):
        await keys.token(key("k"), HOME)
    auth.away = False
    assert await keys.token(key("k"), HOME) == "token-2"


async def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key unused for longest makes room; of refused ones as well."""
    monkeypatch.setattr(exchange, "MAX_KEYS", 2)
    auth = Auth()
    keys = auth.exchange()
    for name in ("a", "b", "a", "c", "a"):
        await keys.token(key(name), HOME)
    assert auth.asked == [key("a"), key("b"), key("c")]
    await keys.token(key("b"), HOME)
    assert auth.asked == [key("a"), key("b"), key("c"), key("b")]
    auth.unknown = {key(str(number)) for number in range(5)}
    for made_up in auth.unknown:
        with pytest.raises(Unauthenticated):
            await keys.token(made_up, HOME)
    assert len(keys._refused) == 2


async def test_made_up_keys_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number at a time they are refused here, known keys are not."""
    monkeypatch.setattr(exchange, "MAX_RUNNING_PER_ADDRESS", exchange.MAX_RUNNING)
    auth = Auth()
    keys = auth.exchange()
    await keys.token(key("known"), HOME)
    auth.gate.clear()
    tasks = [
        asyncio.create_task(keys.token(key(f"k{n}"), HOME)) for n in range(exchange.MAX_RUNNING)
    ]
    await asyncio.sleep(0)
    with pytest.raises(exchange.TooManyExchanges):
        await keys.token(key("one more"), ELSEWHERE)
    assert await keys.token(key("known"), HOME) == "token-1"
    auth.gate.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((HOME,), ELSEWHERE),
        (("2001:db8::1", "2001:db8::ffff:2"), "2001:db8:0:1::1"),
        (("",), HOME),
    ],
)
async def test_one_client_keeps_no_other_out(one: tuple[str, ...], other: str) -> None:
    """A client is an address, or of IPv6 the /64 that it chooses its addresses from."""
    auth = Auth()
    auth.gate.clear()
    keys = auth.exchange()
    tasks = [
        asyncio.create_task(keys.token(key(f"k{n}"), one[n % len(one)]))
        for n in range(exchange.MAX_RUNNING_PER_ADDRESS)
    ]
    await asyncio.sleep(0)
    for address in one:
        with pytest.raises(exchange.TooManyExchanges):
            await keys.token(key("one more"), address)
    theirs = asyncio.create_task(keys.token(key("theirs"), other))
    await asyncio.sleep(0)
    auth.gate.set()
    await asyncio.gather(theirs, *tasks)
    assert await keys.token(key("one more"), one[0])
    assert not keys._running_from


async def test_keys_are_held_as_digests_only() -> None:
    """A dump of the process' memory should not be a list of keys."""
    keys = Auth().exchange()
    await keys.token(key("k"), HOME)
    assert all(isinstance(held, bytes) and b"lpk" not in held for held in keys._held)
