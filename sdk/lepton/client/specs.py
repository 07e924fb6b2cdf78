"""Messages that people write as YAML or JSON, with the field names of the protos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from lepton.api.inference.v1 import inference_pb2
from lepton.api.training.v1 import training_pb2
from lepton.client.errors import SpecError

M = TypeVar("M", bound=Message)


def spec_from_mapping(mapping: Mapping[str, Any]) -> training_pb2.JobSpec:
    """The job spec that a mapping describes; raises SpecError naming the field that is wrong."""
    return _parsed(mapping, training_pb2.JobSpec(), "job spec")


def endpoint_from_mapping(mapping: Mapping[str, Any]) -> inference_pb2.Endpoint:
    """The endpoint that a mapping describes; raises SpecError naming the field that is wrong."""
    return _parsed(mapping, inference_pb2.Endpoint(), "endpoint")


def endpoint_fields(mapping: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that a mapping names, those with a default value too; none that are unknown."""
    return tuple(
        field.name
        for field in inference_pb2.Endpoint.DESCRIPTOR.fields
        if field.name in mapping or field.json_name in mapping
    )


def _parsed(mapping: Mapping[str, Any], message: M, kind: str) -> M:
    try:
        return json_format.ParseDict(dict(mapping), message)
    # The latter two come from keys that are no strings, which YAML allows.
    except (json_format.ParseError, TypeError, AttributeError) as error:
        known = ", ".join(field.name for field in message.DESCRIPTOR.fields)
        # The lines that follow list the fields as Python would.
        what = str(error).partition("\n")[0].rstrip(". ")
        raise SpecError(f"the {kind} is not valid: {what}; its fields are {known}") from None
