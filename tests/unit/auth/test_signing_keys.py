"""The keys that sign tokens: their file, their rotation, what they sign."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
import pytest

from lepton_auth.adapters.signing_keys import FileSigningKeys
from lepton_auth.errors import InvalidLifetime
from lepton_auth.tokens import TokenMint
from lepton_auth.verified_tokens import by_password, expiry
from lepton_mesh.caller import Caller, Role
from lepton_mesh.claims import Claims, from_payload

if TYPE_CHECKING:
    from .conftest import Clock


def _keys(path: Path, clock: Clock) -> FileSigningKeys:
    return FileSigningKeys(
        path,
        clock,
        rotate_after=timedelta(days=30),
        publish_before=timedelta(hours=1),
        longest_token=timedelta(days=7),
    )


def _claims(clock: Clock) -> Claims:
    expires = int((clock.now + timedelta(minutes=5)).timestamp())
    return Claims("users/ada", "user", "default", Role.VIEWER, expires, token_id="t")


def _kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def _kids(keys: FileSigningKeys) -> list[str]:
    return [key["kid"] for key in keys.jwks()]


def test_the_file_is_for_its_owner_only(tmp_path: Path, clock: Clock) -> None:
    """Mode 0600, and another start signs with the same key."""
    path = tmp_path / "keys.json"
    first = _keys(path, clock)
    assert path.stat().st_mode & 0o777 == 0o600
    assert _keys(path, clock).jwks() == first.jwks()


def test_a_published_key_verifies_what_was_signed(tmp_path: Path, clock: Clock) -> None:
    """With ES256 and the key that the token's header names; nothing private is published."""
    keys = _keys(tmp_path / "keys.json", clock)
    claims = _claims(clock)
    token = keys.sign(claims, issued=clock.now, method="pwd")
    (published,) = keys.jwks()
    assert set(published) == {"kty", "crv", "kid", "use", "alg", "x", "y"}
    assert all(len(base64.urlsafe_b64decode(published[part] + "=")) == 32 for part in "xy")
    payload = jwt.decode(
        token,
        jwt.PyJWK(published).key,
        algorithms=["ES256"],
        audience="lepton",
        options={"verify_exp": False, "verify_iat": False},
    )
    assert from_payload(payload) == claims
    assert _kid(token) == published["kid"]
    bearer = Caller("user", "users/ada", "default", token=token)
    assert by_password(bearer)
    assert expiry(bearer) == clock.now + timedelta(minutes=5)
    without = replace(bearer, token="")
    assert (by_password(without), expiry(without)) == (False, None)


def test_rotation_publishes_first_and_forgets_last(tmp_path: Path, clock: Clock) -> None:
    """The next key is published an hour early; the former stays until its tokens ran out."""
    path = tmp_path / "keys.json"
    keys = _keys(path, clock)
    (old,) = _kids(keys)
    keys.rotate()
    assert _kids(keys) == [old]
    clock.turn(days=29, hours=23)
    keys.rotate()
    old_, new = _kids(keys)
    assert old_ == old
    assert _kid(keys.sign(_claims(clock), issued=clock.now)) == old
    clock.turn(hours=1)
    keys.rotate()
    assert _kid(keys.sign(_claims(clock), issued=clock.now)) == new
    assert _kids(keys) == [old, new]
    assert path.read_text().count("PRIVATE KEY") == 2, "begin and end of one private key"
    clock.turn(days=6, hours=23)
    keys.rotate()
    assert _kids(keys) == [old, new]
    clock.turn(hours=2)
    keys.rotate()
    assert _kids(keys) == [new]
    assert _kids(_keys(path, clock)) == [new]


def test_a_clock_set_back_does_not_stop_logins(tmp_path: Path, clock: Clock) -> None:
    """Some key always signs."""
    keys = _keys(tmp_path / "keys.json", clock)
    clock.turn(days=-1)
    keys.rotate()
    assert _kid(keys.sign(_claims(clock), issued=clock.now)) == _kids(keys)[0]


def test_job_tokens_name_what_they_may_touch(tmp_path: Path, clock: Clock) -> None:
    """For a day unless told otherwise, and for at most a week."""
    mint = TokenMint(_keys(tmp_path / "keys.json", clock), clock, timedelta(minutes=15))
    token, expires = mint.job_token(
        "default", "jobs/j", reads=["datasets/d/versions/1"], writes=["models/m", "jobs/j"]
    )
    assert expires == clock.now + timedelta(days=1)
    payload = jwt.decode(token, options={"verify_signature": False})
    claims = from_payload(payload)
    assert (claims.kind, claims.subject, claims.role) == ("job", "jobs/j", Role.NONE)
    assert claims.reads == {"datasets/d/versions/1"}
    assert claims.writes == {"models/m", "jobs/j"}
    for seconds in (59, 604_801, -1):
        with pytest.raises(InvalidLifetime):
            mint.job_token("default", "jobs/j", reads=[], writes=[], ttl_seconds=seconds)
