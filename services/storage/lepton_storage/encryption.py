"""Encryption of one object at rest, in segments that can be read on their own.

The STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-Encryption
and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015) with AES-256-GCM:

    object  = header (80 bytes) | sealed segment 0 | sealed segment 1 | …
    nonce   = prefix (7 bytes) | segment number (4, big-endian) | 1 if last, else 0 (1)
    AAD     = header
    key     = HKDF-SHA256(workspace key, salt, "lepton object" | workspace | object id | version)

A sealed segment is its plain bytes followed by a 16-byte tag. All segments hold
``segment_bytes`` plain bytes, the last one the rest; an empty object is one empty segment. The
header carries the plain size, and every segment authenticates the header; a segment that was
changed, moved, swapped between objects or cut off therefore fails to open.

One (key, segment number) must never seal two different plaintexts: see `staging`.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SEGMENT_BYTES = 1 << 20
TAG_BYTES = 16
KEY_BYTES = 32
MAX_SEGMENTS = 1 << 32  # the counter has four bytes: 4 PiB in segments of 1 MiB

_MAGIC = b"LEPTONE1"
_LAYOUT = struct.Struct(">8sIQ16s32s7s5x")
HEADER_BYTES = _LAYOUT.size


class SealBrokenError(ValueError):
    """Bytes are not what was sealed; the message says which part."""


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in clear before the segments; authenticated with each of them."""

    key_id: bytes
    """Which workspace key the data key derives from, 16 bytes."""
    size: int
    """Plain bytes of the whole object."""
    salt: bytes
    prefix: bytes
    segment_bytes: int = SEGMENT_BYTES

    @classmethod
    def fresh(cls, key_id: bytes, size: int, segment_bytes: int = SEGMENT_BYTES) -> Self:
        """A header with a random salt, hence a data key that was never used before."""
        return cls(key_id, size, os.urandom(32), os.urandom(7), segment_bytes)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises SealBrokenError for bytes that no header encodes to."""
        if len(data) < HEADER_BYTES:
            raise SealBrokenError("the header is cut off")
        magic, segment, size, key_id, salt, prefix = _LAYOUT.unpack(data[:HEADER_BYTES])
        if magic != _MAGIC or not segment:
            raise SealBrokenError("the header is not one of ours")
        header = cls(key_id, size, salt, prefix, segment)
        if header.segments > MAX_SEGMENTS:
            raise SealBrokenError("the header announces too many segments")
        if header.encode() != data[:HEADER_BYTES]:
            raise SealBrokenError("the header's padding is not empty")
        return header

    def encode(self) -> bytes:
        """80 bytes."""
        return _LAYOUT.pack(
            _MAGIC, self.segment_bytes, self.size, self.key_id, self.salt, self.prefix
        )

    @property
    def segments(self) -> int:
        """How many segments there are, at least one."""
        return max(1, -(-self.size // self.segment_bytes))

    @property
    def sealed_size(self) -> int:
        """Bytes of the whole object as stored."""
        return HEADER_BYTES + self.size + self.segments * TAG_BYTES

    def plain_length(self, number: int) -> int:
        """Plain bytes of one segment."""
        return min(self.segment_bytes, self.size - number * self.segment_bytes)

    def sealed_offset(self, number: int) -> int:
        """Where one segment begins in the object as stored."""
        return HEADER_BYTES + number * (self.segment_bytes + TAG_BYTES)


class SegmentCipher:
    """Seals and opens the segments of one object. Thread-safe."""

    def __init__(self, header: Header, workspace_key: bytes, workspace: str, object_id: str):
        self.header = header
        self._aad = header.encode()
        self._aead = AESGCM(_data_key(workspace_key, header.salt, workspace, object_id))

    def seal(self, number: int, plain: bytes | bytearray | memoryview) -> bytes:
        """The sealed segment; ``plain`` has exactly the segment's length."""
        if len(plain) != self.header.plain_length(number):
            raise ValueError(f"segment {number} does not have {len(plain)} bytes")
        return self._aead.encrypt(self._nonce(number), plain, self._aad)

    def open(self, number: int, sealed: bytes) -> bytes:
        """The plain segment; raises SealBrokenError if it is not what was sealed there."""
        if len(sealed) != self.header.plain_length(number) + TAG_BYTES:
            raise SealBrokenError(f"segment {number} is cut off")
        try:
            return self._aead.decrypt(self._nonce(number), sealed, self._aad)
        except InvalidTag:
            raise SealBrokenError(f"segment {number} does not authenticate") from None

    def _nonce(self, number: int) -> bytes:
        last = number == self.header.segments - 1
        return self.header.prefix + number.to_bytes(4, "big") + (b"\1" if last else b"\0")


def _data_key(workspace_key: bytes, salt: bytes, workspace: str, object_id: str) -> bytes:
    # Each part carries its length, so that no two different triples give the same bytes.
    parts = (b"lepton object", workspace.encode(), object_id.encode(), _MAGIC)
    info = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    return HKDF(SHA256(), KEY_BYTES, salt, info).derive(workspace_key)
