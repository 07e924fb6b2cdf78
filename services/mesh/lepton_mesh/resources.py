"""The conventions that every resource of the API follows (aip.dev): ids, names, pages, masks.

    model_id = check_id(request.model_id, "model_id")                            # AIP-122
    (model, number) = parse_name("models/{model}/versions/{version}", request.name)
    page = Page.of(request, "models", str)                                       # AIP-158
    check_request_id(request.request_id)                                         # AIP-155
    fields = masked_fields(request.update_mask, request.model, ("description",)) # AIP-134
    check_etag(request.model.etag, current)                                      # AIP-154

What does not follow them is refused with an InvalidArgument that names the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lepton_mesh import base64url
from lepton_mesh.errors import Aborted, InvalidArgument

if TYPE_CHECKING:
    from google.protobuf.field_mask_pb2 import FieldMask
    from google.protobuf.message import Message

ID_PATTERN = r"[a-z][a-z0-9-]{0,62}"
"""What an id that a user chooses looks like."""
DEFAULT_PAGE = 100
MAX_PAGE = 1000
MAX_REQUEST_ID = 128
"""Characters."""

_MAX_TOKEN = 512
"""Characters; a token of ours has less than 300."""
_MAX_INTEGER = 2**63 - 1
"""Of the databases; no key is larger."""

_ID = re.compile(ID_PATTERN)
# A segment of a resource name: ids that users choose, numbers, and ids that services make.
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class InvalidId(InvalidArgument):
    reason = "INVALID_ID"


class InvalidRequestId(InvalidArgument):
    reason = "INVALID_REQUEST_ID"


class InvalidName(InvalidArgument):
    reason = "INVALID_NAME"


class InvalidPage(InvalidArgument):
    reason = "INVALID_PAGE"


class InvalidUpdateMask(InvalidArgument):
    reason = "INVALID_UPDATE_MASK"


class EtagMismatch(Aborted):
    reason = "ETAG_MISMATCH"


class ListRequest(Protocol):
    """What every request of a List method has."""

    @property
    def page_size(self) -> int: ...
    @property
    def page_token(self) -> str: ...


def check_id(value: str, field: str) -> str:
    """``value`` if it may be an id that a user chose; raises InvalidId naming ``field``."""
    if not _ID.fullmatch(value):
        raise InvalidId(
            f"{field} {_quote(value)} is not an id; use 1 to 63 lower-case letters, digits and "
            "hyphens, beginning with a letter",
            field=field,
        )
    return value


def check_request_id(value: str) -> str:
    """``value`` if it may be a request id, "" included; raises InvalidRequestId."""
    # Not printable are NUL, which PostgreSQL cannot hold, and what logs could not show.
    if len(value) > MAX_REQUEST_ID or not value.isprintable():
        raise InvalidRequestId(
            f"request_id is not one; use at most {MAX_REQUEST_ID} characters that can be shown"
        )
    return value


def parse_name(pattern: str, name: str) -> tuple[str, ...]:
    """The variable segments of a resource name such as ``models/{model}/versions/{version}``.

    Raises InvalidName if ``name`` is not of that form.
    """
    expected, given = pattern.split("/"), name.split("/")
    if len(expected) == len(given):
        pairs = list(zip(expected, given, strict=True))
        if all(_SEGMENT.fullmatch(b) if a.startswith("{") else a == b for a, b in pairs):
            return tuple(b for a, b in pairs if a.startswith("{"))
    raise InvalidName(
        f"{_quote(name)} is not a resource name of the form {pattern}: for each {{…}} 1 to 128 "
        "letters of ASCII, digits, '_' and '-', beginning with a letter or digit",
        name=name,
    )


@dataclass(frozen=True, slots=True)
class Page:
    """One page asked for: how many rows, and after which key."""

    size: int
    after: tuple[Any, ...] | None
    """The last key of the page before; None on the first."""
    kind: str

    @classmethod
    def of(cls, request: ListRequest, kind: str, *types: type) -> Page:
        """The page that ``request`` asks for; ``types`` are those of the key's parts.

        Raises InvalidPage for a negative size and for a token that this list never gave.
        """
        if request.page_size < 0:
            raise InvalidPage(f"page_size {request.page_size} is negative; use 0 to {MAX_PAGE}")
        size = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
        if not request.page_token:
            return cls(size, None, kind)
        after = _key(request.page_token, kind)
        if after is None or [type(part) for part in after] != list(types):
            raise InvalidPage("page_token is not one that this list gave; begin without one")
        return cls(size, tuple(after), kind)

    def token(self, *key: str | int) -> str:
        """The token of the page that begins after ``key``."""
        return base64url.encode(json.dumps([self.kind, *key]).encode())


def _key(token: str, kind: str) -> list[Any] | None:
    """The key in a token of the list ``kind``; None for a token that is none.

    Tokens are not signed: whoever forges one learns nothing, but no part of it may be what a
    database cannot hold.
    """
    if len(token) > _MAX_TOKEN:  # which bounds how deep its JSON can be nested, too
        return None
    try:
        found, *key = json.loads(base64url.decode(token))
    except (ValueError, TypeError):
        return None
    return key if found == kind and all(_storable(part) for part in key) else None


def _storable(part: object) -> bool:
    if isinstance(part, str):
        return part.isprintable()
    return isinstance(part, int) and abs(part) <= _MAX_INTEGER


def masked_fields(mask: FieldMask, message: Message, allowed: Sequence[str]) -> frozenset[str]:
    """The fields to change: those of the mask, or without one those that ``message`` sets.

    Raises InvalidUpdateMask for a field that may not change, and when nothing would.
    """
    paths = set(mask.paths)
    if not paths:
        paths = {field.name for field, _ in message.ListFields()}.intersection(allowed)
    if paths == {"*"}:
        paths = set(allowed)
    if not paths:
        raise InvalidUpdateMask(f"nothing to change; name one of {', '.join(allowed)}")
    if fixed := sorted(paths.difference(allowed)):
        raise InvalidUpdateMask(
            f"{_quote(fixed[0])} cannot change; update_mask may name {', '.join(allowed)}",
            field=fixed[0],
        )
    return frozenset(paths)


def check_etag(given: str, current: str, name: str) -> None:
    """Raises EtagMismatch if a non-empty ``given`` is not ``current``."""
    if given and given != current:
        raise EtagMismatch(f"'{name}' has changed since it was read; read it again", name=name)


def _quote(value: str) -> str:
    return f"'{value}'" if len(value) <= 100 else f"'{value[:100]}…'"
