"""Keys as etcd holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_mesh.etcd.v3 import etcd_pb2 as pb


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as it was at some revision."""

    key: str
    value: bytes
    mod_revision: int
    """The revision of its last change; what a compare-and-swap expects."""
    lease: int
    """The lease it dies with; 0 is none."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Every key below a prefix, at one revision of one cluster."""

    items: tuple[KeyValue, ...]
    revision: int
    cluster_id: int


def prefix_end(prefix: bytes) -> bytes:
    """The ``range_end`` that takes in every key beginning with ``prefix``.

    The prefix with its last byte below 0xff raised by one; ``\\0`` (every key
    from ``prefix`` on) where there is no such byte.
    """
    for index in reversed(range(len(prefix))):
        if prefix[index] < 0xFF:
            return prefix[:index] + bytes([prefix[index] + 1])
    return b"\0"


def to_key_value(kv: pb.KeyValue) -> KeyValue:
    """A key as etcd sends it, as ours. Lepton's keys are UTF-8."""
    return KeyValue(kv.key.decode(errors="replace"), kv.value, kv.mod_revision, kv.lease)
