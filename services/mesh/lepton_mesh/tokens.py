"""Verifying access tokens: ES256 JWTs (RFC 7519) by the keys that the auth service publishes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton_mesh import base64url
from lepton_mesh.caller import acting_as_service
from lepton_mesh.claims import (
    ALGORITHM,
    AUDIENCE,
    ISSUER,
    Claims,
    TokenExpired,
    TokenInvalid,
    from_payload,
)
from lepton_mesh.errors import Unavailable

if TYPE_CHECKING:
    from lepton_mesh.interceptors.client import MeshChannel

log = logging.getLogger(__name__)

FetchKeys = Callable[[], Awaitable[Sequence[Mapping[str, str]]]]
"""The current JSON Web Keys, each with ``kid``, ``crv``, ``x`` and ``y`` (RFC 7518, 6.2)."""

LEEWAY_SECONDS = 5
"""How far the clocks of two machines may be apart."""
CACHED_TOKENS = 4096
REFRESH_SECONDS = 300.0
REFETCH_PAUSE_SECONDS = 5.0
"""Tokens with made-up key ids cause no more than one fetch in this time."""
FETCH_TIMEOUT_SECONDS = 5.0


class KeysUnavailable(Unavailable):
    reason = "TOKEN_KEYS_UNAVAILABLE"


class TokenVerifier:
    """Says what a token claims, once its signature, issuer, audience and expiry hold.

    The last known keys stay in use while the auth service is away.
    """

    def __init__(self, fetch_keys: FetchKeys) -> None:
        self._fetch_keys = fetch_keys
        self._keys: dict[str, ec.EllipticCurvePublicKey] = {}
        self._fetched = -REFETCH_PAUSE_SECONDS
        self._fetching: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._verified: OrderedDict[bytes, Claims] = OrderedDict()

    def start(self) -> None:
        """Fetches the keys now and then again, in the background."""
        self._refreshing = asyncio.create_task(self._refresh(), name="token keys")

    async def close(self) -> None:
        tasks = [task for task in (self._refreshing, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def verify(self, token: str) -> Claims:
        """The token's claims.

        Raises:
            TokenExpired, TokenInvalid: The token does not hold.
            KeysUnavailable: No key has ever been fetched, so nothing can be said.
        """
        digest = hashlib.sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is not None:
            if time.time() < known.expires + LEEWAY_SECONDS:
                self._verified.move_to_end(digest)
                return known
            del self._verified[digest]
        claims = from_payload(_decode(token, await self._key(token)))
        self._verified[digest] = claims
        if len(self._verified) > CACHED_TOKENS:
            self._verified.popitem(last=False)
        return claims

    async def _key(self, token: str) -> ec.EllipticCurvePublicKey:
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except jwt.InvalidTokenError:
            raise TokenInvalid("the token is not a JWT; log in again") from None
        if not isinstance(kid, str):
            raise TokenInvalid("the token names no key; log in again")
        if kid not in self._keys:
            await self._refetch()
        if not self._keys:
            raise KeysUnavailable(
                "tokens cannot be verified until the auth service answers; try again in a moment"
            )
        key = self._keys.get(kid)
        if key is None:
            raise TokenInvalid("the token was signed with an unknown key; log in again")
        return key

    async def _refetch(self) -> None:
        """Fetches the keys, together with whoever is waiting already, unless that was just done."""
        if self._fetching is None:
            if time.monotonic() - self._fetched < REFETCH_PAUSE_SECONDS and self._keys:
                return
            self._fetching = asyncio.create_task(self._fetch(), name="fetch token keys")
        # One caller's cancellation must not end the fetch of the others.
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
                fetched = await self._fetch_keys()
            keys = {key["kid"]: _public_key(key) for key in fetched}
        except Exception as error:
            # Whatever it was: the known keys stay in use, and the refreshing must go on.
            log.warning("token keys not fetched", extra={"error": error, "known": len(self._keys)})
        else:
            if gone := self._keys.keys() - keys.keys():
                self._verified.clear()  # a withdrawn key must not live on in the cache
                log.info("signing keys withdrawn", extra={"kids": ", ".join(sorted(gone))})
            self._keys = keys
        finally:
            self._fetched = time.monotonic()
            self._fetching = None

    async def _refresh(self) -> None:
        while True:
            await self._refetch()
            await asyncio.sleep(REFRESH_SECONDS if self._keys else 1.0)


def auth_keys(channel: MeshChannel) -> FetchKeys:
    """Keys from ``AuthService.GetJwks`` over the mesh."""
    stub: Any = auth_pb2_grpc.AuthServiceStub(channel)

    async def fetch() -> Sequence[Mapping[str, str]]:
        with acting_as_service(""):
            answer: auth_pb2.Jwks = await stub.GetJwks(
                auth_pb2.GetJwksRequest(), timeout=FETCH_TIMEOUT_SECONDS
            )
        return [{"kid": key.kid, "crv": key.crv, "x": key.x, "y": key.y} for key in answer.keys]

    return fetch


def _decode(token: str, key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
    try:
        return jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
    except jwt.ExpiredSignatureError:
        raise TokenExpired("the token has expired; log in again or refresh it") from None
    except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
        raise TokenInvalid("the token was issued by or for someone else; log in here") from None
    except jwt.InvalidTokenError:
        raise TokenInvalid("the token does not verify; log in again") from None


def _public_key(key: Mapping[str, str]) -> ec.EllipticCurvePublicKey:
    """Raises ValueError for anything but a point on P-256."""
    if key.get("crv") != "P-256":
        raise ValueError(f"key {key.get('kid')} is not on P-256")
    x, y = (int.from_bytes(base64url.decode(key[part])) for part in ("x", "y"))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
