"""Which paths the files of a version may have: whoever reads them writes them into a folder."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import pairwise

from lepton_storage.errors import DatasetInvalid

MAX_PATH = 1024
"""Of a whole path, in bytes of UTF-8."""
_MAX_PART = 255  # in bytes: what Linux's file systems take of one name (NAME_MAX)


def check_paths(paths: Iterable[str]) -> None:
    """Raises DatasetInvalid for a path that is none, and for two that no folder has room for."""
    ended = []
    for path in paths:
        _check_path(path)
        ended.append(path + "/")
    # In this order, what begins with "a/" follows "a/" itself.
    for one, next_one in pairwise(sorted(ended)):
        if one == next_one:
            path = one[:-1]
            raise DatasetInvalid(f"'{path}' is named twice; give each file its own path", file=path)
        if next_one.startswith(one):
            path = next_one[:-1]
            raise DatasetInvalid(
                f"'{one[:-1]}' is a file and the folder of '{path}'; rename one of them", file=path
            )


def _check_path(path: str) -> None:
    if not _is_path(path):
        raise DatasetInvalid(
            f"'{path[:100]}' is not a path of a file in a version; use a relative one with '/', "
            f"without '..', of at most {MAX_PATH} bytes as UTF-8, {_MAX_PART} between two '/'",
            file=path[:100],
        )


def _is_path(path: str) -> bool:
    # The length in characters first: a path of megabytes is not looked at one by one.
    if not path or len(path) > MAX_PATH or "\\" in path:
        return False
    if any(unicodedata.category(char).startswith("C") for char in path):
        return False
    return len(path.encode()) <= MAX_PATH and all(
        part not in ("", ".", "..") and len(part.encode()) <= _MAX_PART for part in path.split("/")
    )
