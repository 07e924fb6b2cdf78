"""Messages that people write as YAML or JSON, with the field names of the protos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from google.api import field_behavior_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct

from lepton.api.inference.v1 import inference_pb2
from lepton.api.training.v1 import training_pb2
from lepton.client.errors import Reason, SpecError

M = TypeVar("M", bound=Message)

_Descriptor = Any
"""A Descriptor; the stubs know two of them, which have no type in common."""


def spec_from_mapping(mapping: Mapping[str, Any]) -> training_pb2.JobSpec:
    """The job spec that a mapping describes; raises SpecError naming every field that is wrong."""
    return _parsed(mapping, training_pb2.JobSpec(), "job spec", "JOB_SPEC_INVALID")


def endpoint_from_mapping(mapping: Mapping[str, Any]) -> inference_pb2.Endpoint:
    """The endpoint that a mapping describes; raises SpecError naming every field that is wrong."""
    return _parsed(mapping, inference_pb2.Endpoint(), "endpoint", "ENDPOINT_INVALID")


def endpoint_fields(mapping: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that a mapping names, those with a default value too; none that are unknown."""
    return tuple(
        field.name
        for field in inference_pb2.Endpoint.DESCRIPTOR.fields
        if field.name in mapping or field.json_name in mapping
    )


def plain_struct(struct: Struct) -> dict[str, Any]:
    """A Struct as plain data; empty for an empty one."""
    found: dict[str, Any] = json_format.MessageToDict(struct)
    return found


class _Fault(NamedTuple):
    place: tuple[Any, ...]
    """The keys and indexes that lead there."""
    message: str


def _parsed(mapping: Mapping[str, Any], message: M, kind: str, reason: Reason) -> M:
    faults = list(_faults(mapping, message.DESCRIPTOR, "", ()))
    if faults:
        told = "; ".join(fault.message for fault in faults)
        error = SpecError(f"the {kind} is not valid: {told}", reason=reason)
        rest = _without(mapping, {fault.place for fault in faults}, ())
        with suppress(json_format.ParseError):  # of two names for one field, for instance
            error.rest = json_format.ParseDict(rest, message)
        raise error
    return json_format.ParseDict(dict(mapping), message)


def _without(value: Any, wrong: Set[tuple[Any, ...]], place: tuple[Any, ...]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _without(one, wrong, (*place, key))
            for key, one in value.items()
            if (*place, key) not in wrong
        }
    if isinstance(value, list):
        return [
            _without(one, wrong, (*place, index))
            for index, one in enumerate(value)
            if (*place, index) not in wrong
        ]
    return value


def _faults(
    mapping: Mapping[Any, Any], kind: _Descriptor, path: str, place: tuple[Any, ...]
) -> Iterator[_Fault]:
    """All that is wrong, each with its path; protobuf's own parser stops at the first."""
    fields = {name: f for f in kind.fields for name in (f.name, f.json_name)}
    for key, value in mapping.items():
        field, here = fields.get(key), (*place, key)
        if field is None:
            those = f"the fields of {path[:-1]} are" if path else "the fields are"
            told = f"{path}{key}: there is no such field; {those} {_settable(kind)}"
            yield _Fault(here, told)
        elif _is_plain(field) or value is None:
            for told in _value_faults(field, value, path + key):
                yield _Fault(here, told)
        elif not field.is_repeated:
            yield from _message_faults(value, field.message_type, path + key, here)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                name = f"{path}{key}[{index}]"
                yield from _message_faults(item, field.message_type, name, (*here, index))
        else:
            yield _Fault(here, f"{path}{key}: write a list")


def _is_plain(field: FieldDescriptor) -> bool:
    """Whether the field's value has no fields of its own that a person could misspell."""
    kind: _Descriptor = field.message_type
    # Maps, and the types that JSON writes in ways of their own, such as durations.
    return kind is None or kind.GetOptions().map_entry or kind.file.package == "google.protobuf"


def _message_faults(
    value: Any, kind: _Descriptor, path: str, place: tuple[Any, ...]
) -> Iterator[_Fault]:
    if isinstance(value, Mapping):
        yield from _faults(value, kind, f"{path}.", place)
    else:
        yield _Fault(place, f"{path}: write its fields, which are {_settable(kind)}")


def _settable(kind: _Descriptor) -> str:
    """The fields that have an effect when they are written; others are what servers say."""
    behaviors = field_behavior_pb2.field_behavior
    return ", ".join(
        field.name
        for field in kind.fields
        if field_behavior_pb2.OUTPUT_ONLY not in field.GetOptions().Extensions[behaviors]
    )


def _value_faults(field: FieldDescriptor, value: Any, path: str) -> Iterator[str]:
    if not _is_exact(field, value):
        yield f"{path}: {value!r} is not {_expected(field)}"
        return
    containing: _Descriptor = field.containing_type
    holder = GetMessageClass(containing)()
    try:
        json_format.ParseDict({field.name: value}, holder)
    # The latter two come from keys that are no strings, which YAML allows.
    except (json_format.ParseError, TypeError, AttributeError):
        yield f"{path}: {value!r} is not {_expected(field)}"


def _is_exact(field: FieldDescriptor, value: Any) -> bool:
    """Whether protobuf's parser, if it takes the value, takes it for what it is.

    It makes the enum's 3 of 3.5 and of "3", and the number 1 of true.
    """
    values = value if field.is_repeated and isinstance(value, list) else [value]
    if field.enum_type is not None:
        known = {key for each in field.enum_type.values for key in (each.name, each.number)}
        return all(each is None or (_is_scalar(each) and each in known) for each in values)
    if field.cpp_type in _FRACTIONS:
        return not any(isinstance(each, bool) for each in values)
    return True


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _expected(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        if not field.message_type.GetOptions().map_entry:
            return f"a {field.message_type.name} as JSON writes it"
        return f"a mapping of text to {_expected(field.message_type.fields_by_name['value'])}"
    if field.enum_type is not None:
        what = f"one of {', '.join(value.name for value in field.enum_type.values)}"
    else:
        what = _EXPECTED.get(field.cpp_type, "a whole number in range")
    return f"a list, each item {what}" if field.is_repeated else what


_FRACTIONS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_EXPECTED = {
    FieldDescriptor.CPPTYPE_STRING: "text",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    **dict.fromkeys(_FRACTIONS, "a number"),
}
"""What people call the values of scalar fields; all others are integers."""
