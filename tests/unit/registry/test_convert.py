"""What messages become, and which are not even converted."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from lepton.api.registry.v1 import registry_pb2 as pb
from lepton_registry import convert
from lepton_registry.errors import InvalidVersion
from lepton_registry.records import MAX_DOCUMENT_BYTES, MAX_VERSION_BYTES


def _numbers(count: int) -> Struct:
    document = Struct()
    document.update({"counts": [1] * count})
    return document


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("model_version", {"class_names": ["x" * (4 * MAX_VERSION_BYTES)]}),
        ("evaluation", {"evaluation": _numbers(MAX_DOCUMENT_BYTES // 2)}),
        ("parity", {"parity": _numbers(MAX_DOCUMENT_BYTES // 2)}),
        (
            "lineage.hyperparameters",
            {"lineage": pb.Lineage(hyperparameters=_numbers(MAX_DOCUMENT_BYTES // 2))},
        ),
    ],
)
def test_what_is_far_too_large_is_not_converted(field: str, fields: dict[str, Any]) -> None:
    """It is refused by its encoded size, which costs nothing to learn."""
    with pytest.raises(InvalidVersion, match=f"^{field} has"):
        convert.version(pb.ModelVersion(**fields))


def test_no_document_is_refused_that_may_be_kept() -> None:
    """Numbers take most room in a message, compared with their JSON."""
    kept = _numbers(MAX_DOCUMENT_BYTES // len("1, ") - 10)
    assert kept.ByteSize() > 3 * MAX_DOCUMENT_BYTES
    convert.version(pb.ModelVersion(evaluation=kept))
