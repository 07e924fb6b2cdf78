"""What the files of a dataset version are checked for, by declared format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from lepton_storage.formats.delimited import check_csv
from lepton_storage.formats.idx import check_idx
from lepton_storage.records import DatasetFormat

Open = Callable[[], Iterator[bytes]]
"""Begins to read a file: its bytes in pieces of any size."""
Check = Callable[[Mapping[str, Open]], dict[str, str]]
"""Path -> file, in order of path; returns statistics or raises DatasetInvalid."""


def _check_nothing(files: Mapping[str, Open]) -> dict[str, str]:
    return {"files": str(len(files))}


CHECKS: Mapping[DatasetFormat, Check] = {
    DatasetFormat.RAW: _check_nothing,
    DatasetFormat.IDX: check_idx,
    DatasetFormat.CSV: check_csv,
}
"""Every format's check; each reads the files as a stream, in constant memory."""
