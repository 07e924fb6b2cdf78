"""The keys that sign access tokens (ES256, RFC 7518 section 3.4), in one file of the service's own.

A key is published before it signs, so that those who verify have it by then, and its public half
stays published until the last token it signed has run out. The private half is forgotten when
the next key takes over.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lepton_auth.tokens import METHOD_CLAIM
from lepton_mesh import base64url
from lepton_mesh.claims import ALGORITHM, Claims, to_payload
from lepton_mesh.durable import write_private


@dataclass(frozen=True, slots=True)
class _Key:
    kid: str
    private_pem: str = field(repr=False)
    """PKCS #8; "" once another key signs."""
    x: str
    y: str
    signs_from: datetime
    signed_until: datetime | None = None


class FileSigningKeys:
    """Signs with the newest key whose time has come, and rotates."""

    def __init__(
        self,
        path: Path,
        clock: Callable[[], datetime],
        *,
        rotate_after: timedelta,
        publish_before: timedelta,
        longest_token: timedelta,
    ) -> None:
        """Reads ``path``, or makes it with a first key.

        Args:
            rotate_after: How long a key signs.
            publish_before: How long a key is published before it signs.
            longest_token: How long a former key stays published.
        """
        self._path = path
        self._clock = clock
        self._rotate_after = rotate_after
        self._publish_before = publish_before
        self._longest_token = longest_token
        self._lock = threading.Lock()
        self._keys = _load(path)
        if not self._keys:
            self._store([_new_key(clock())])

    def sign(self, claims: Claims, *, issued: datetime, method: str = "") -> str:
        payload = to_payload(claims, issued=int(issued.timestamp()))
        if method:
            payload[METHOD_CLAIM] = [method]
        key = self._current()
        return jwt.encode(
            payload, key.private_pem, algorithm=ALGORITHM, headers={"kid": key.kid, "typ": "JWT"}
        )

    def jwks(self) -> list[dict[str, str]]:
        """The public keys, as RFC 7517 writes them."""
        return [
            {
                "kty": "EC",
                "crv": "P-256",
                "kid": key.kid,
                "use": "sig",
                "alg": ALGORITHM,
                "x": key.x,
                "y": key.y,
            }
            for key in self._keys
        ]

    def rotate(self) -> None:
        """Does what is due: adds the next key, retires the former. Cheap when nothing is."""
        with self._lock:
            now = self._clock()
            keys = list(self._keys)
            due = keys[-1].signs_from + self._rotate_after - self._publish_before
            if now >= due:
                keys.append(_new_key(now + self._publish_before))
            current = max(i for i, key in enumerate(keys) if i == 0 or key.signs_from <= now)
            keys = [_retired(key, now) for key in keys[:current]] + keys[current:]
            keys = [
                key
                for key in keys
                if key.signed_until is None or now < key.signed_until + self._longest_token
            ]
            if keys != self._keys:
                self._store(keys)

    def _current(self) -> _Key:
        now = self._clock()
        ready = [key for key in self._keys if key.private_pem and key.signs_from <= now]
        # A clock that was set back must not stop logins.
        return ready[-1] if ready else next(key for key in self._keys if key.private_pem)

    def _store(self, keys: Sequence[_Key]) -> None:
        content = json.dumps({"keys": [_to_json(key) for key in keys]}, indent=1)
        write_private(self._path, content.encode())
        self._keys = list(keys)


def _new_key(signs_from: datetime) -> _Key:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    numbers = private.public_key().public_numbers()
    x, y = (base64url.encode(number.to_bytes(32)) for number in (numbers.x, numbers.y))
    # The key id is the key's thumbprint (RFC 7638 section 3): members in this order, no blanks.
    thumbprint = hashlib.sha256(
        json.dumps({"crv": "P-256", "kty": "EC", "x": x, "y": y}, separators=(",", ":")).encode()
    )
    return _Key(base64url.encode(thumbprint.digest()), pem.decode(), x, y, signs_from)


def _retired(key: _Key, now: datetime) -> _Key:
    if key.signed_until is not None:
        return key
    return _Key(key.kid, "", key.x, key.y, key.signs_from, now)


def _load(path: Path) -> list[_Key]:
    try:
        content = path.read_text()
    except FileNotFoundError:
        return []
    return [_from_json(entry) for entry in json.loads(content)["keys"]]


def _to_json(key: _Key) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "private_pem": key.private_pem,
        "x": key.x,
        "y": key.y,
        "signs_from": key.signs_from.isoformat(),
        "signed_until": key.signed_until and key.signed_until.isoformat(),
    }


def _from_json(entry: dict[str, Any]) -> _Key:
    until = entry["signed_until"]
    return _Key(
        entry["kid"],
        entry["private_pem"],
        entry["x"],
        entry["y"],
        datetime.fromisoformat(entry["signs_from"]),
        datetime.fromisoformat(until) if until else None,
    )
