"""Keys that verify tokens: fetched once, refetched rarely, kept when the auth service is away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from lepton_mesh import tokens
from lepton_mesh.claims import TokenInvalid
from lepton_mesh.errors import Unavailable
from lepton_mesh.tokens import KeysUnavailable, TokenVerifier

if TYPE_CHECKING:
    from conftest import Mesh


async def test_one_fetch_serves_many_tokens_and_callers(mesh: Mesh) -> None:
    """Tokens that arrive together wait for one fetch."""
    many = [mesh.token(f"users/u{number}") for number in range(50)]
    claims = await asyncio.gather(*(mesh.verifier.verify(token) for token in many))
    assert [one.subject for one in claims] == [f"users/u{number}" for number in range(50)]
    assert mesh.fetched == 1


async def test_made_up_key_ids_cause_one_fetch(mesh: Mesh) -> None:
    """Nobody can make a service flood the auth service."""
    await mesh.verifier.verify(mesh.token())
    for number in range(20):
        with pytest.raises(TokenInvalid):
            await mesh.verifier.verify(mesh.token(kid=f"made-up-{number}"))
    assert mesh.fetched == 1


async def test_a_new_key_is_found(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of a key that is not known yet causes a fetch."""
    monkeypatch.setattr(tokens, "REFETCH_PAUSE_SECONDS", 0.0)
    new = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(TokenInvalid):
        await mesh.verifier.verify(mesh.token(key=new, kid="k2"))
    old_token = mesh.token()
    await mesh.verifier.verify(old_token)
    mesh.signing_key, mesh.signing_kid = new, "k2"
    assert (await mesh.verifier.verify(mesh.token(kid="k2"))).subject == "users/ada"
    # The first key was withdrawn, and what it had signed is not remembered.
    with pytest.raises(TokenInvalid):
        await mesh.verifier.verify(old_token)


async def test_known_keys_outlive_the_auth_service(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the auth service known keys verify; without any, the answer is "try again"."""
    monkeypatch.setattr(tokens, "REFETCH_PAUSE_SECONDS", 0.0)
    away = False

    async def fetch() -> list[dict[str, str]]:
        if away:
            raise Unavailable("the auth service is away")
        return [dict(key) for key in await mesh.keys()]

    verifier = TokenVerifier(fetch)
    await verifier.verify(mesh.token())
    away = True
    with pytest.raises(TokenInvalid):
        await verifier.verify(mesh.token(kid="k2"))
    assert (await verifier.verify(mesh.token("users/bob"))).subject == "users/bob"
    with pytest.raises(KeysUnavailable):
        await TokenVerifier(fetch).verify(mesh.token())


async def test_the_keys_are_asked_for_again_whatever_went_wrong(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody thought of does not end the refreshing."""
    monkeypatch.setattr(tokens, "REFETCH_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(tokens, "REFRESH_SECONDS", 0.01)
    asked = 0
    again = asyncio.Event()

    async def fetch() -> list[dict[str, str]]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise TypeError("nobody thought of this")
        if asked > 2:
            again.set()
        return [dict(key) for key in await mesh.keys()]

    verifier = TokenVerifier(fetch)
    verifier.start()
    await asyncio.wait_for(again.wait(), 5)
    await verifier.close()


async def test_the_cache_is_bounded(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old entries leave when there are too many."""
    monkeypatch.setattr(tokens, "CACHED_TOKENS", 3)
    for _ in range(10):
        await mesh.verifier.verify(mesh.token())
    assert len(mesh.verifier._verified) == 3
