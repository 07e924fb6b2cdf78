"""What is refused of a ModelInferRequest because taking it apart would hold up everybody else.

A raw tensor is one piece, whatever its size. All else becomes a Python or protobuf object for
every few bytes: 64 MiB of small integers in typed contents held the event loop for seconds, and
as many empty outputs would take 1.6 GiB (16 MiB took 0.4). So that part is bounded, as the JSON
of a REST request is.
"""

from __future__ import annotations

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_mesh.errors import InvalidArgument

MAX_PARSED_BYTES = 8 << 20
"""Of one request, without its raw tensors."""
MAX_PARTS = 1024
"""Inputs, outputs or parameters of one request."""
_RAW_INPUT_TAG = 0x3A  # ModelInferRequest.raw_input_contents: field 7, length-delimited
_LENGTH_DELIMITED = 2


class ContentsTooLarge(InvalidArgument):
    """Too much of the request is not raw tensors."""

    reason = "CONTENTS_TOO_LARGE"


def check_size(body: bytes) -> None:
    """Refuses a serialized request of which too much would have to be taken apart.

    Requests of other methods have no raw tensors, and no field that is large by itself.

    Raises:
        ContentsTooLarge: More than ``MAX_PARSED_BYTES`` are not raw tensors.
    """
    if len(body) > MAX_PARSED_BYTES:
        parsed = len(body) - _raw_bytes(body)
        if parsed > MAX_PARSED_BYTES:
            raise ContentsTooLarge(
                f"{parsed} bytes of the request are not raw tensors; {MAX_PARSED_BYTES} may be, so "
                "send tensors in raw_input_contents",
                limit=MAX_PARSED_BYTES,
            )


def check_parts(message: pb.ModelInferRequest) -> None:
    """Refuses a request of thousands of parts, each of which would be looked at.

    Raises:
        ContentsTooLarge: More than ``MAX_PARTS`` inputs, outputs or parameters.
    """
    for what, count in (
        ("inputs", len(message.inputs)),
        ("outputs", len(message.outputs)),
        ("parameters", len(message.parameters)),
    ):
        if count > MAX_PARTS:
            raise ContentsTooLarge(
                f"the request has {count} {what}; there may be {MAX_PARTS}", limit=MAX_PARTS
            )


def _raw_bytes(body: bytes) -> int:
    """Bytes of the raw tensors among the first fields; what is malformed ends the search."""
    raw = at = 0
    try:
        for _ in range(2 * MAX_PARTS):
            if at >= len(body):
                break
            tag, at = _varint(body, at)
            if tag & 7 != _LENGTH_DELIMITED:
                break  # no field of the message: the parser will keep or refuse it
            length, at = _varint(body, at)
            at += length
            if tag == _RAW_INPUT_TAG and at <= len(body):
                raw += length
    except IndexError:
        pass
    return raw


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Protobuf's variable-length integer at ``at``, and where it ends; raises IndexError."""
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("a varint has ten bytes at most")
