"""gRPC's framing and status over HTTP/2, for the ASGI adapter (gRPC's PROTOCOL-HTTP2.md)."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from urllib.parse import quote

from google.protobuf.message import Message

from lepton_inference.wire import FRAME, MessageInvalid
from lepton_mesh.errors import LeptonError, ResourceExhausted, Unimplemented, Wire
from lepton_mesh.interceptors.status import public_message, to_status
from lepton_mesh.texts import counted

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class MessageTooLarge(ResourceExhausted):
    """It stays so however often it is sent: HTTP has a status of its own for that (RFC 9110)."""

    reason = "MESSAGE_TOO_LARGE"
    wire = Wire(8, "RESOURCE_EXHAUSTED", 413, False)


class EncodingUnsupported(Unimplemented):
    reason = "ENCODING_UNSUPPORTED"


def unframe(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The one message in a unary request's body.

    Raises:
        MessageInvalid: Not exactly one whole frame.
        MessageTooLarge, EncodingUnsupported: See :func:`inflate`.
    """
    if len(body) < FRAME or int.from_bytes(body[1:FRAME], "big") != len(body) - FRAME:
        raise MessageInvalid(f"the body of {counted(len(body), 'byte')} is not one gRPC message")
    return message_of(body[0], body[FRAME:], encoding, limit)


class Frames:
    """Frames out of a streaming request's body, as its chunks come."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    @property
    def waiting(self) -> int:
        """Bytes of a message that is not complete."""
        return len(self._buffer)

    def add(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames that ``chunk`` completes: flag and content, for :func:`message_of`.

        Raises:
            MessageTooLarge: One is longer than the limit.
        """
        self._buffer += chunk
        while len(self._buffer) >= FRAME:
            length = int.from_bytes(self._buffer[1:FRAME], "big")
            if length > self._limit:
                raise too_large(self._limit)
            if len(self._buffer) < FRAME + length:
                return
            flag, content = self._buffer[0], bytes(self._buffer[FRAME : FRAME + length])
            del self._buffer[: FRAME + length]
            yield flag, content


def message_of(flag: int, content: bytes, encoding: bytes, limit: int) -> bytes:
    """The message that a frame holds.

    Raises:
        MessageInvalid: The flag is unknown.
        MessageTooLarge, EncodingUnsupported: See :func:`inflate`.
    """
    if flag == 0:
        return content
    if flag != 1:
        raise MessageInvalid(f"a gRPC frame has the flag {flag}; 0 and 1 are known")
    return inflate(content, encoding.decode("latin-1"), limit)


def inflate(content: bytes, encoding: str, limit: int) -> bytes:
    """``content`` decompressed.

    Raises:
        EncodingUnsupported: Not gzip, deflate or identity.
        MessageTooLarge: More than ``limit`` bytes would come out.
        MessageInvalid: It is not what ``encoding`` says.
    """
    if encoding in ("", "identity"):
        return content
    window = _WINDOW_BITS.get(encoding)
    if window is None:
        raise EncodingUnsupported(
            f"the encoding '{encoding}' is not supported; use gzip, deflate or none",
            encoding=encoding,
        )
    inflater = zlib.decompressobj(window)
    try:
        out = inflater.decompress(content, limit + 1)
    except zlib.error:
        raise MessageInvalid(f"the body is not {encoding}, as its encoding says") from None
    if len(out) > limit:
        raise too_large(limit)
    if not inflater.eof:
        raise MessageInvalid(f"the {encoding} body ends too early")
    if inflater.unused_data:
        raise MessageInvalid(
            f"after the {encoding} body there is more: {counted(len(inflater.unused_data), 'byte')}"
        )
    return out


def too_large(limit: int) -> MessageTooLarge:
    """The error for a message beyond the limit."""
    return MessageTooLarge(
        f"a message may have {limit} bytes; send fewer rows at a time", limit=limit
    )


def timeout_seconds(header: bytes) -> float | None:
    """The value of ``grpc-timeout``; None if it is malformed, which means no timeout."""
    text = header.decode("latin-1")
    unit = _UNITS.get(text[-1:])
    # Digits of other scripts are none here.
    if unit is None or not text[:-1].isascii() or not text[:-1].isdigit() or len(text) > 9:
        return None
    return int(text[:-1]) * unit


def status_trailers(error: LeptonError) -> list[tuple[bytes, bytes]]:
    """The trailers that carry ``error``, details included."""
    details: Message = to_status(error)
    # Unpadded base64, as gRPC asks of binary metadata.
    encoded = base64.b64encode(details.SerializeToString()).rstrip(b"=")
    return [
        (b"grpc-status", str(error.wire.grpc_code).encode()),
        (
            b"grpc-message",
            quote(public_message(error), safe=" !#$&'()*+,/:;=?@[]~\"<>^`{|}").encode(),
        ),
        (b"grpc-status-details-bin", encoded),
    ]
