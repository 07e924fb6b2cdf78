"""What the files of a version are checked for, as tables of good and bad files."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterator

import pytest

from lepton_storage.errors import DatasetInvalid
from lepton_storage.formats import delimited
from lepton_storage.formats.delimited import check_csv
from lepton_storage.formats.idx import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    check_idx,
)


def idx(shape: tuple[int, ...], values: bytes | None = None, kind: int = 8) -> bytes:
    """An IDX file, as published: gzipped."""
    size = 1
    for dimension in shape:
        size *= dimension
    head = bytes((0, 0, kind, len(shape))) + b"".join(n.to_bytes(4, "big") for n in shape)
    return gzip.compress(head + (bytes(size) if values is None else values), 1)


GOOD = {
    TRAIN_IMAGES: idx((6, 4, 4)),
    TRAIN_LABELS: idx((6,), bytes((0, 1, 2, 0, 1, 2))),
    TEST_IMAGES: idx((3, 4, 4)),
    TEST_LABELS: idx((3,), bytes((2, 1, 0))),
}


def opened(files: dict[str, bytes], step: int = 7) -> dict[str, Callable[[], Iterator[bytes]]]:
    """Files that are read in small pieces."""

    def begin(data: bytes) -> Iterator[bytes]:
        return (data[at : at + step] for at in range(0, len(data), step))

    return {path: lambda data=data: begin(data) for path, data in files.items()}


def test_idx_files_give_statistics() -> None:
    """Examples, shape and classes are found."""
    assert check_idx(opened(GOOD)) == {
        "train_examples": "6",
        "test_examples": "3",
        "image_shape": "4x4",
        "classes": "3",
    }


def test_a_gzip_file_of_several_members_is_one_file() -> None:
    """RFC 1952 section 2.2."""
    plain = gzip.decompress(GOOD[TRAIN_LABELS])
    parts = gzip.compress(plain[:5]) + gzip.compress(plain[5:])
    assert check_idx(opened({**GOOD, TRAIN_LABELS: parts}))["train_examples"] == "6"


def test_tiny_gzip_members_take_time_in_proportion() -> None:
    """Copying what is left of 4 MB after each of 200,000 empty members would be 400 GB."""
    members = gzip.compress(b"") * 200_000
    begun = time.thread_time()
    found = check_idx(opened({**GOOD, TRAIN_LABELS: members + GOOD[TRAIN_LABELS]}, len(members)))
    assert found["train_examples"] == "6"
    assert time.thread_time() - begun < 3


BAD_IDX = {
    "missing": ({TRAIN_LABELS: None}, TRAIN_LABELS, "is missing"),
    "too many": ({"notes.txt": b""}, "notes.txt", "does not belong"),
    "not gzip": ({TRAIN_IMAGES: b"plain bytes"}, TRAIN_IMAGES, "not a gzip file"),
    "empty": ({TRAIN_IMAGES: b""}, TRAIN_IMAGES, "is cut off"),
    "cut off": ({TEST_IMAGES: GOOD[TEST_IMAGES][:-9]}, TEST_IMAGES, "is cut off"),
    "damaged": (
        {TEST_LABELS: GOOD[TEST_LABELS][:-8] + bytes(8)},
        TEST_LABELS,
        "is damaged",
    ),
    "no header": (
        {TEST_LABELS: gzip.compress(b"\0")},
        TEST_LABELS,
        "ends after 1 byte, within its IDX header",
    ),
    "labels for images": (
        {TRAIN_IMAGES: GOOD[TRAIN_LABELS] + b""},
        TRAIN_IMAGES,
        "0x00000803",
    ),
    "wrong type": ({TRAIN_IMAGES: idx((6, 4, 4), None, 0x0D)}, TRAIN_IMAGES, "0x00000d03"),
    "no images": ({TRAIN_IMAGES: idx((0, 4, 4))}, TRAIN_IMAGES, "is empty"),
    "bomb": (
        {TRAIN_IMAGES: idx((1 << 20, 1 << 10, 4), b"")},
        TRAIN_IMAGES,
        "announces 4294967296 values",
    ),
    "too short": ({TRAIN_IMAGES: idx((6, 4, 4), bytes(95))}, TRAIN_IMAGES, "has 95 of the 96"),
    "too long": ({TRAIN_IMAGES: idx((6, 4, 4), bytes(97))}, TRAIN_IMAGES, "more than the 96"),
    "fewer labels": (
        {TRAIN_LABELS: idx((5,), bytes((0, 1, 2, 0, 1)))},
        TRAIN_LABELS,
        "5 labels for the 6 images",
    ),
    "other size": ({TEST_IMAGES: idx((3, 5, 5))}, TEST_IMAGES, "images of 5x5"),
    "unseen label": ({TEST_LABELS: idx((3,), bytes((2, 1, 9)))}, TEST_LABELS, "has the label 9"),
}


@pytest.mark.parametrize("name", BAD_IDX)
def test_bad_idx_is_refused(name: str) -> None:
    """The error names the file, what is wrong with it, and a remedy."""
    change, file, what = BAD_IDX[name]
    files = {path: data for path, data in {**GOOD, **change}.items() if data is not None}
    with pytest.raises(DatasetInvalid) as raised:
        check_idx(opened(files))
    assert raised.value.metadata == {"file": file}
    assert raised.value.message.startswith(file)
    assert what in raised.value.message
    assert "; " in raised.value.message


GOOD_CSV = {
    "plain": b"a,b\n1,2\n3,4\n",
    "no last line end": b"a,b\n1,2\n3,4",
    "windows": b"a,b\r\n1,2\r\n3,4\r\n",
    "byte order mark": b"\xef\xbb\xbfa,b\n1,2\n3,4\n",
    "empty lines": b"\n\na,b\n\n1,2\n3,4\n\n",
    "quotes": b'a,"b, or not"\n"1\n1",2\n3,"4""4"\n',
    "not ascii": "a,ü\n1,é\n3,\x0c4\n".encode(),
}


@pytest.mark.parametrize("name", GOOD_CSV)
@pytest.mark.parametrize("step", [1, 1000])
def test_csv_files_give_statistics(name: str, step: int) -> None:
    """Rows and columns are counted however the file comes in pieces."""
    found = check_csv(opened({"t.csv": GOOD_CSV[name]}, step))
    assert found == {"files": "1", "rows": "2", "columns": "2"}


BAD_CSV = {
    "empty": (b"", "is empty"),
    "header only": (b"a,b\n", "no rows"),
    "field missing": (b"a,b\n1,2\n3\n", "has 1 field in line 3"),
    "field too many": (b"a,b\n1,2,3\n", "3 fields in line 2"),
    "not text": (b"a,b\n1,\xff\n", "is not UTF-8 text in line 2"),
    "cut character": (b"a,b\n1,\xc3", "is not UTF-8 text in line 2"),
    "not text at once": (b"\xff", "is not UTF-8 text in line 1"),
    "open quote": (b'a,b\n1,"2\n', "is not CSV"),
    "bad quote": (b'a,b\n1,"2"3\n', "is not CSV"),
    "long field": (b"a,b\n1," + b"2" * 131_073 + b"\n", "a field of more than 131072 characters"),
    "column twice": (b"a,a\n1,2\n", "two columns 'a'"),
    "column without name": (b"a,\n1,2\n", "column 2"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_bad_csv_is_refused(name: str) -> None:
    """The error names the file and the line."""
    data, what = BAD_CSV[name]
    with pytest.raises(DatasetInvalid) as raised:
        check_csv(opened({"t.csv": data}))
    assert raised.value.metadata == {"file": "t.csv"}
    assert what in raised.value.message


def test_a_row_over_many_lines_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quoted fields hold line ends, and a row any number of fields: it would gather the file."""
    monkeypatch.setattr(delimited, "_MAX_ROW", 1000)
    rows = b'a,b\n"1\n1",2\n' + b'3,"4\n"\n' * 1000
    assert check_csv(opened({"t.csv": rows}, 100))["rows"] == "1001"
    with pytest.raises(DatasetInvalid, match="a row of more than 1000 characters up to line 2"):
        check_csv(opened({"t.csv": rows + b'"5\n",' * 1000}, 100))


def test_a_line_without_an_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one too, as of a file that is no text; the remedy is an option that there is."""
    monkeypatch.setattr(delimited, "_MAX_ROW", 1000)
    with pytest.raises(DatasetInvalid, match=r"in line 1; .*--format raw") as raised:
        check_csv(opened({"t.csv": b"1" * 1001}))
    assert "more than 1000 characters" in raised.value.message
