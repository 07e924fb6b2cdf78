"""Records of instances, and ranges of keys."""

from __future__ import annotations

import json

import pytest

from lepton_mesh.discovery import Instance
from lepton_mesh.etcd.keys import prefix_end


def test_a_record_is_read_back() -> None:
    one = Instance("inference", "inference-1", "127.0.0.1:5", ports={"oip": "127.0.0.1:6"})
    assert Instance.from_json(one.to_json()) == one
    assert one.key == "/lepton/services/inference/inference-1"


def test_fields_of_later_versions_are_left_out() -> None:
    record = {"service": "s", "instance": "s-1", "address": "h:1", "colour": "blue"}
    assert Instance.from_json(json.dumps(record).encode()) == Instance("s", "s-1", "h:1")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[1]",
        b"3",
        b'{"service":"s"}',
        b"\xff",
        b'"text"',
        b'{"service":"s","instance":"s-1","address":5}',
        b'{"service":"s","instance":["s-1"],"address":"h:1"}',
        b'{"service":"s","instance":"s-1","address":"h:1","capacity":"many"}',
        b'{"service":"s","instance":"s-1","address":"h:1","capacity":true}',
        b'{"service":"s","instance":"s-1","address":"h:1","ports":{"oip":6}}',
    ],
)
def test_what_is_no_record(value: bytes) -> None:
    with pytest.raises(ValueError):
        Instance.from_json(value)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"/a/", b"/a0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")],
)
def test_prefix_end(prefix: bytes, end: bytes) -> None:
    """etcd's convention (clientv3.GetPrefixRangeEnd)."""
    assert prefix_end(prefix) == end
