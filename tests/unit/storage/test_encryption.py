"""Encryption of one object: every byte comes back, and nothing else ever does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_storage.encryption import (
    HEADER_BYTES,
    TAG_BYTES,
    Header,
    SealBrokenError,
    SegmentCipher,
)
from lepton_storage.errors import ObjectCorrupt
from lepton_storage.records import Blob
from lepton_storage.sealed import SealedReader

SEGMENT = 32
KEY = b"k" * 32
plains = st.binary(max_size=5 * SEGMENT + 1)
objects = plains.filter(bool)


class MemoryObject:
    """The StoredObject port over bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, start: int, length: int) -> bytes:
        return self.data[start : start + length]

    def close(self) -> None:
        """Nothing to give back."""


class OneKey:
    """A keyring with one key for everything."""

    def cipher(self, header: Header, workspace: str, object_id: str) -> SegmentCipher:
        return SegmentCipher(header, KEY, workspace, object_id)


def seal(plain: bytes, *, workspace: str = "acme", object_id: str = "o") -> bytes:
    header = Header.fresh(b"i" * 16, len(plain), SEGMENT)
    cipher = SegmentCipher(header, KEY, workspace, object_id)
    sealed = [
        cipher.seal(number, plain[number * SEGMENT : (number + 1) * SEGMENT])
        for number in range(header.segments)
    ]
    return header.encode() + b"".join(sealed)


def reader(data: bytes, size: int, *, workspace: str = "acme", object_id: str = "o"):
    blob = Blob(object_id, workspace, "0" * 64, size, "i")
    return SealedReader(MemoryObject(data), OneKey(), blob)


def read_all(data: bytes, size: int, **where: str) -> bytes:
    return b"".join(reader(data, size, **where).pieces(0, size))


@given(plain=plains, data=st.data())
def test_any_range_of_any_size_comes_back(plain: bytes, data: st.DataObject) -> None:
    """What was sealed is read back, whole or any part of it."""
    start = data.draw(st.integers(0, len(plain)))
    end = data.draw(st.integers(start, len(plain)))
    sealed = seal(plain)
    assert len(sealed) == Header.decode(sealed).sealed_size
    assert b"".join(reader(sealed, len(plain)).pieces(start, end)) == plain[start:end]


@given(plain=objects)
def test_no_plaintext_is_in_the_object(plain: bytes) -> None:
    """Two seals of one plaintext share nothing but magic, sizes and key id."""
    first, second = seal(plain), seal(plain)
    assert first[HEADER_BYTES:] != second[HEADER_BYTES:]
    assert len(plain) < 8 or plain not in first[HEADER_BYTES:]


@given(plain=plains, data=st.data())
def test_any_changed_byte_is_found(plain: bytes, data: st.DataObject) -> None:
    """Flipping any bit, of the header too, fails the read that touches it."""
    sealed = bytearray(seal(plain))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ObjectCorrupt):
        read_all(bytes(sealed), len(plain))


@given(plain=plains, data=st.data())
def test_a_cut_object_is_found_at_open(plain: bytes, data: st.DataObject) -> None:
    """Whatever was cut off, opening fails before a byte is given out."""
    sealed = seal(plain)
    kept = data.draw(st.integers(0, len(sealed) - 1))
    with pytest.raises(ObjectCorrupt):
        reader(sealed[:kept], len(plain))


@given(plain=st.binary(min_size=2 * SEGMENT, max_size=5 * SEGMENT), data=st.data())
def test_a_shorter_object_cannot_be_made_of_a_longer_one(plain: bytes, data: st.DataObject) -> None:
    """Cutting whole segments and correcting the header's size does not help a forger."""
    sealed = seal(plain)
    header = Header.decode(sealed)
    kept = data.draw(st.integers(1, header.segments - 1))
    shorter = replace(header, size=kept * SEGMENT)
    forged = shorter.encode() + sealed[HEADER_BYTES : shorter.sealed_size]
    with pytest.raises(ObjectCorrupt):
        reader(forged, shorter.size)


@given(plain=st.binary(min_size=3 * SEGMENT, max_size=5 * SEGMENT), data=st.data())
def test_swapped_segments_are_found(plain: bytes, data: st.DataObject) -> None:
    """Segments cannot change places."""
    sealed = seal(plain)
    whole = len(plain) // SEGMENT
    first = data.draw(st.integers(0, whole - 2))
    second = data.draw(st.integers(first + 1, whole - 1))
    size = SEGMENT + TAG_BYTES
    parts = [
        sealed[HEADER_BYTES + n * size : HEADER_BYTES + (n + 1) * size] for n in range(whole + 1)
    ]
    parts[first], parts[second] = parts[second], parts[first]
    with pytest.raises(ObjectCorrupt):
        read_all(sealed[:HEADER_BYTES] + b"".join(parts), len(plain))


@pytest.mark.parametrize("where", [{"workspace": "other"}, {"object_id": "p"}])
def test_an_object_cannot_take_the_place_of_another(where: dict[str, str]) -> None:
    """The data key is bound to workspace and object id."""
    sealed = seal(b"secret")
    assert read_all(sealed, 6) == b"secret"
    with pytest.raises(ObjectCorrupt):
        read_all(sealed, 6, **where)


def test_a_range_read_authenticates_the_last_segment() -> None:
    """A range in the first segment fails when the last one was changed."""
    sealed = bytearray(seal(bytes(3 * SEGMENT)))
    sealed[-1] ^= 1
    with pytest.raises(ObjectCorrupt):
        reader(bytes(sealed), 3 * SEGMENT)


def test_a_segment_of_the_wrong_length_is_refused() -> None:
    """Sealing or opening anything but the segment's own length is an error."""
    header = Header.fresh(b"i" * 16, 2 * SEGMENT, SEGMENT)
    cipher = SegmentCipher(header, KEY, "acme", "o")
    with pytest.raises(ValueError, match="does not have"):
        cipher.seal(0, b"short")
    with pytest.raises(SealBrokenError):
        cipher.open(0, b"short")
