"""Metadata, configuration, statistics and failures as the JSON of the protocol's REST half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference import reports
from lepton_inference.model import Model
from lepton_inference.open_inference import SERVER_NAME, server_version
from lepton_inference.serving import Served
from lepton_mesh.errors import LeptonError
from lepton_mesh.interceptors.status import public_message


def server_metadata(extensions: Sequence[str]) -> dict[str, Any]:
    """``GET /v2``."""
    return {"name": SERVER_NAME, "version": server_version(), "extensions": list(extensions)}


def metadata(served: Served, model: Model) -> dict[str, Any]:
    """``GET /v2/models/{model}``, with where it runs under ``properties``."""
    return plain(reports.metadata(served, model)) | {"properties": reports.properties(model)}


def config(model: Model) -> dict[str, Any]:
    """``GET /v2/models/{model}/config``."""
    return plain(reports.config(model))


def statistics(model: Model) -> dict[str, Any]:
    """One entry of ``GET /v2/models/{model}/stats``."""
    return plain(reports.statistics(model))


def index_entry(entry: pb.RepositoryIndexResponse.ModelIndex) -> dict[str, Any]:
    """One entry of ``POST /v2/repository/index``."""
    return {name: value for name, value in plain(entry).items() if name != "reason" or value}


def failure(error: LeptonError) -> dict[str, str]:
    """What is said of a request that failed."""
    return {"error": public_message(error), "reason": error.reason}


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON with numbers as numbers, which Triton's clients expect.

    protobuf's own JSON form writes 64-bit integers as text. Fields of messages that are not
    set are left out; everything else is there, defaults included.
    """
    return {
        field.name: _plain_field(message, field)
        for field in message.DESCRIPTOR.fields
        if field.message_type is None or field.is_repeated or message.HasField(field.name)
    }


def _plain_field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        nested = field.message_type.fields_by_name["value"].message_type is not None
        return {key: plain(value[key]) if nested else value[key] for key in value}
    if field.is_repeated:
        return [_plain_value(each, field) for each in value]
    return _plain_value(value, field)


def _plain_value(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
