"""What texts may hold that users give."""

from __future__ import annotations

from collections.abc import Mapping

from lepton_mesh.texts import text_fault
from lepton_storage.errors import StorageRequestInvalid

MAX_DESCRIPTION = 4000
MAX_NAME = 255
"""Of media types, file names and sources."""
_MAX_LABELS = 64
_MAX_LABEL = 256


def check_text(field: str, value: str, limit: int) -> None:
    """Raises StorageRequestInvalid."""
    if fault := text_fault(value, limit):
        raise StorageRequestInvalid(f"{field} {fault}", field=field)


def check_label_count(count: int) -> None:
    """For labels that are not taken apart yet. Raises StorageRequestInvalid."""
    if count > _MAX_LABELS:
        raise StorageRequestInvalid(f"more than {_MAX_LABELS} labels; use fewer", field="labels")


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises StorageRequestInvalid."""
    check_label_count(len(labels))
    for key, value in labels.items():
        if not key:
            raise StorageRequestInvalid("a label has no key; give it one", field="labels")
        check_text("labels", key, _MAX_LABEL)
        check_text("labels", value, _MAX_LABEL)
