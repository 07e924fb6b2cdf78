"""Shared memory over REST: each path stands for one of the gRPC methods.

``/v2/systemsharedmemory[/region/{region}]/{status,register,unregister}``, and the same under
``cudasharedmemory``.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, NamedTuple

from google.protobuf.message import Message

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.json_tensors import shown
from lepton_inference.rest_codec import BodyInvalid, json_object
from lepton_inference.rest_json import plain

_PREFIXES = {"systemsharedmemory": "SystemSharedMemory", "cudasharedmemory": "CudaSharedMemory"}
_VERBS = {"status": "GET", "register": "POST", "unregister": "POST"}
_END = 1 << 64
"""What an unsigned integer of the protocol is below."""


class Asked(NamedTuple):
    """What a path asks for."""

    verb: str
    rpc: str
    region: str
    """"" for all."""


def parse(path: str) -> Asked | None:
    """What a path below ``/v2/`` asks for, if it is one of these."""
    prefix, _, rest = path.partition("/")
    parts = rest.split("/")
    region = ""
    if len(parts) == 3 and parts[0] == "region" and parts[1]:
        region, parts = parts[1], parts[2:]
    action = parts[0]
    if prefix not in _PREFIXES or len(parts) != 1 or action not in _VERBS:
        return None
    if action == "register" and not region:
        return None
    return Asked(_VERBS[action], _PREFIXES[prefix] + action.capitalize(), region)


def request(asked: Asked, body: bytes) -> Message:
    """The request of the gRPC method.

    Raises:
        BodyInvalid: The body is not the JSON that the method takes.
    """
    message: Message = getattr(pb, f"{asked.rpc}Request")(name=asked.region)
    if isinstance(message, pb.SystemSharedMemoryRegisterRequest):
        given = json_object(body)
        message.key = _text(given, "key")
        message.offset = _number(given, "offset", 0)
        message.byte_size = _number(given, "byte_size")
    elif isinstance(message, pb.CudaSharedMemoryRegisterRequest):
        given = json_object(body)
        message.raw_handle = _handle(given)
        message.device_id = _number(given, "device_id", 0, 1 << 31)
        message.byte_size = _number(given, "byte_size")
    return message


def content(response: Message) -> list[dict[str, Any]] | dict[str, Any]:
    """The gRPC method's response as JSON: a list of regions, or nothing."""
    said = plain(response)
    return list(said["regions"].values()) if "regions" in said else said


def _number(content: dict[str, Any], key: str, default: int | None = None, end: int = _END) -> int:
    value = content.get(key, default)
    if type(value) is not int or not 0 <= value < end:
        raise BodyInvalid(f"'{key}' is {value!r}; it takes a whole number from 0, below {end}")
    return value


def _text(content: dict[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str):
        what = shown(value) if key in content else "missing"
        raise BodyInvalid(f"'{key}' is {what}; it takes text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BodyInvalid(f"'{key}' is not Unicode text") from None
    return value


def _handle(content: dict[str, Any]) -> bytes:
    handle = content.get("raw_handle")
    encoded = handle.get("b64") if isinstance(handle, dict) else None
    try:
        return base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else b""
    except (binascii.Error, ValueError):
        raise BodyInvalid("'raw_handle' is not {'b64': a handle in base64}") from None
