"""The claims of a Lepton token: what the auth service signs and every service verifies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from lepton_mesh.caller import Role
from lepton_mesh.errors import Unauthenticated

ALGORITHM: Final = "ES256"
"""The only algorithm that is signed or accepted (RFC 7518 section 3.4)."""
ISSUER: Final = "lepton"
AUDIENCE: Final = "lepton"

SUBJECT: Final = "sub"
KIND: Final = "kind"
WORKSPACE: Final = "ws"
ROLE: Final = "role"
READS: Final = "reads"
WRITES: Final = "writes"
EXPIRES: Final = "exp"
ISSUED: Final = "iat"
TOKEN_ID: Final = "jti"  # noqa: S105  a claim's name, not a token

ROLE_NAMES: Final[Mapping[str, Role]] = {
    "viewer": Role.VIEWER,
    "developer": Role.DEVELOPER,
    "admin": Role.ADMIN,
}
"""How the ``role`` claim spells each role; jobs carry none."""


class TokenMissing(Unauthenticated):
    reason = "TOKEN_MISSING"


class TokenExpired(Unauthenticated):
    reason = "TOKEN_EXPIRED"


class TokenInvalid(Unauthenticated):
    reason = "TOKEN_INVALID"


@dataclass(frozen=True, slots=True)
class Claims:
    """A verified token's content."""

    subject: str
    kind: Literal["user", "job"]
    workspace: str
    role: Role
    expires: int
    """Unix seconds."""
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    token_id: str = ""


def to_payload(claims: Claims, *, issued: int) -> dict[str, Any]:
    """The JWT payload that :func:`from_payload` reads back."""
    payload: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        SUBJECT: claims.subject,
        KIND: claims.kind,
        WORKSPACE: claims.workspace,
        EXPIRES: claims.expires,
        ISSUED: issued,
        TOKEN_ID: claims.token_id,
    }
    if claims.kind == "job":
        payload[READS] = sorted(claims.reads)
        payload[WRITES] = sorted(claims.writes)
    else:
        payload[ROLE] = claims.role.name.lower()
    return payload


def from_payload(payload: Mapping[str, Any]) -> Claims:
    """The claims in a payload whose signature, issuer, audience and expiry hold.

    Raises TokenInvalid for a payload that the auth service would not have signed.
    """
    kind = payload.get(KIND)
    role = Role.NONE if kind == "job" else ROLE_NAMES.get(payload.get(ROLE, ""))
    subject, workspace = payload.get(SUBJECT), payload.get(WORKSPACE)
    if (
        kind not in ("user", "job")
        or role is None
        or not isinstance(subject, str)
        or not subject
        or not isinstance(workspace, str)
        or not workspace
    ):
        raise TokenInvalid("the token's claims are not those of a Lepton token; log in again")
    return Claims(
        subject=subject,
        kind=kind,
        workspace=workspace,
        role=role,
        expires=int(payload[EXPIRES]),
        reads=_names(payload.get(READS)),
        writes=_names(payload.get(WRITES)),
        token_id=str(payload.get(TOKEN_ID, "")),
    )


def _names(value: object) -> frozenset[str]:
    return frozenset(str(name) for name in value) if isinstance(value, list) else frozenset()
