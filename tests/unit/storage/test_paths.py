"""Paths of the files of a version: any folder takes all of them."""

from __future__ import annotations

import pytest

from lepton_storage.errors import DatasetInvalid
from lepton_storage.paths import check_paths

LONG = "é" * 127 + "x"  # 255 bytes


@pytest.mark.parametrize(
    "paths",
    [
        ["a", "b/a", "b/c/a", "ab", "a.txt", "b-c"],
        [LONG],
        [f"{LONG}/{LONG}/{LONG}/{LONG}"],  # 1,023 bytes
    ],
)
def test_paths_that_a_folder_takes(paths: list[str]) -> None:
    check_paths(paths)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a/",
        "../a",
        "a/../b",
        "./a",
        "a//b",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\ud800",
        "a" * 256,
        "é" * 128,  # 256 bytes
        "a/" * 512 + "a",
        "ab/" * 341 + "é",  # 1,024 characters, 1,025 bytes
        "a" * (1 << 20),
    ],
)
def test_a_path_that_no_folder_takes_is_refused(path: str) -> None:
    """Paths are relative, plain, printable, and no longer than file systems allow."""
    with pytest.raises(DatasetInvalid, match="is not a path"):
        check_paths(["b", path])


@pytest.mark.parametrize(
    ("paths", "what"),
    [
        (["a", "b", "a"], "'a' is named twice"),
        (["a/b", "a.b", "a"], "'a' is a file and the folder of 'a/b'"),
        (["b/c/d/e", "b/c", "b-c"], "'b/c' is a file and the folder of 'b/c/d/e'"),
    ],
)
def test_paths_that_exclude_each_other_are_refused(paths: list[str], what: str) -> None:
    """One name is one file, or one folder."""
    with pytest.raises(DatasetInvalid, match=what):
        check_paths(paths)
