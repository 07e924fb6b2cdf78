"""JSON bodies of REST requests: which of their fields the API does not have.

Envoy's transcoder drops those without a word (it has a switch for unknown methods and for unknown
query parameters, and none for these), and a misspelled field would leave its default in force.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from google.api import annotations_pb2

from lepton_gateway.upstreams import API_FILES
from lepton_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from google.api.http_pb2 import HttpRule
    from google.protobuf.descriptor import Descriptor, FieldDescriptor

MAX_CHECKED_BYTES = 256 << 10
"""A body as large as that or larger is not looked into: it would hold up other requests."""
_TOLD_MAX = 8
"""Fields named in a message: the first."""
_NAME_MAX = 64
_VARIABLE = re.compile(r"\{[\w.]+(?:=([^}]*))?\}")


class UnknownFields(InvalidArgument):
    reason = "INVALID_REQUEST"


@dataclass(frozen=True, slots=True)
class _Binding:
    """A google.api.http option whose request has a body."""

    method: str
    path: re.Pattern[str]
    body: Descriptor | None
    """None for one value, which has no fields."""


class RestBodies:
    """The bodies that the API's methods take."""

    def __init__(self) -> None:
        self._bindings = list(_bindings())

    def check(self, method: str, path: str, body: bytes) -> None:
        """Refuses fields that the body's message does not have.

        What is no JSON, not of the types that the fields have, or for a path that the API does not
        have is let through: the transcoder tells it.

        Args:
            method: HTTP's, in capitals.
            path: With or without a query.
            body: As it came, as far as :data:`MAX_CHECKED_BYTES`.

        Raises:
            UnknownFields: With the path of each.
        """
        place = path.partition("?")[0]
        kind = next(
            (
                one.body
                for one in self._bindings
                if one.method == method and one.path.fullmatch(place)
            ),
            None,
        )
        if kind is None or len(body) >= MAX_CHECKED_BYTES:
            return
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            return
        if told := "; ".join(islice(_unknown(content, kind, ""), _TOLD_MAX)):
            raise UnknownFields(f"the body has fields that the API does not: {told}")


def _bindings() -> Iterator[_Binding]:
    for file in API_FILES:
        for service in file.services_by_name.values():
            for method in service.methods:
                rule = method.GetOptions().Extensions[annotations_pb2.http]
                for one in (rule, *rule.additional_bindings):
                    if one.body:
                        yield _binding(one, method.input_type)


def _binding(rule: HttpRule, request: Descriptor) -> _Binding:
    pattern = rule.WhichOneof("pattern")
    body = request if rule.body == "*" else request.fields_by_name[rule.body].message_type
    return _Binding(pattern.upper(), _path(getattr(rule, pattern)), body)


def _path(template: str) -> re.Pattern[str]:
    """A path template of google.api.http without its variables' names."""
    plain = _VARIABLE.sub(lambda variable: variable[1] or "*", template)
    return re.compile(re.escape(plain).replace(r"\*\*", ".+").replace(r"\*", "[^/]+"))


def _unknown(content: Any, kind: Descriptor, path: str) -> Iterator[str]:
    if not isinstance(content, Mapping):
        return
    fields = {name: field for field in kind.fields for name in (field.name, field.json_name)}
    for name, value in content.items():
        field = fields.get(name)
        if field is None:
            yield _told(path, name, fields)
        else:
            yield from _unknown_within(value, field, path + name)


def _unknown_within(value: Any, field: FieldDescriptor, path: str) -> Iterator[str]:
    kind = field.message_type
    # Structs have any fields, and other types of protobuf's own are written in ways of their own.
    if kind is None or kind.file.package == "google.protobuf":
        return
    if kind.GetOptions().map_entry:
        inner = kind.fields_by_name["value"]
        for name, one in value.items() if isinstance(value, Mapping) else ():
            yield from _unknown_within(one, inner, f"{path}.{name[:_NAME_MAX]!a}")
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _unknown(one, kind, f"{path}[{index}].")
    else:
        yield from _unknown(value, kind, f"{path}.")


def _told(path: str, name: str, fields: Mapping[str, FieldDescriptor]) -> str:
    short = name[:_NAME_MAX]
    near = difflib.get_close_matches(short, fields, n=1)
    known = ", ".join(sorted({field.json_name for field in fields.values()}))
    hint = f"did you mean '{near[0]}'?" if near else f"known: {known}"
    # A name may hold what no terminal or message can.
    return f"{path}{ascii(short)[1:-1]}, {hint}"
