"""Comma-separated text with a header line (RFC 4180)."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterator, Mapping

from lepton_storage.errors import DatasetInvalid

_MAX_ROW = 16 << 20  # characters; quoted fields may hold line ends, and rows fields without end
_OR_RAW = "or use the format RAW (`--format raw`)"


def check_csv(files: Mapping[str, Callable[[], Iterator[bytes]]]) -> dict[str, str]:
    """Checks that every row of every file has as many fields as its header; skips empty lines.

    Raises:
        DatasetInvalid: Names the file, the line, what is wrong and the remedy.
    """
    rows, columns = 0, set[int]()
    for path, begin in files.items():
        file_rows, file_columns = _check_file(path, begin())
        rows += file_rows
        columns.add(file_columns)
    statistics = {"files": str(len(files)), "rows": str(rows)}
    if len(columns) == 1:
        statistics["columns"] = str(columns.pop())
    return statistics


def _check_file(path: str, pieces: Iterator[bytes]) -> tuple[int, int]:
    """Rows without the header, and columns."""
    lines = _Lines(path, pieces)
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    rows = 0
    try:
        for row in reader:
            lines.row_ends()
            if not row:
                continue
            if header is None:
                header = row
                _check_header(path, header)
                continue
            if len(row) != len(header):
                raise _invalid(
                    path,
                    f"has {len(row)} field{'s' * (len(row) != 1)} in line {reader.line_num} and "
                    f"{len(header)} in its header",
                    "correct the line, or quote a field that has a comma in it",
                )
            rows += 1
    except csv.Error as error:
        if "field larger than field limit" in str(error):
            raise _invalid(
                path,
                f"has a field of more than {csv.field_size_limit()} characters in line "
                f"{reader.line_num}",
                f"shorten it, close the quote that it begins with, {_OR_RAW}",
            ) from None
        raise _invalid(
            path, f"is not CSV in line {reader.line_num} ({error})", "correct the quotes"
        ) from None
    if header is None:
        raise _invalid(path, "is empty", "begin it with a header line")
    if not rows:
        raise _invalid(path, "has a header and no rows", "add rows, or leave the file out")
    return rows, len(header)


def _check_header(path: str, header: list[str]) -> None:
    seen = set[str]()
    for number, name in enumerate(header, start=1):
        if not name.strip():
            raise _invalid(path, f"has no name for column {number}", "name it in the header line")
        if name in seen:
            raise _invalid(path, f"has two columns '{name}'", "give each its own name")
        seen.add(name)


class _Lines(Iterator[str]):
    """The lines of one file, as long as they make rows of a bounded length."""

    def __init__(self, path: str, pieces: Iterator[bytes]) -> None:
        self._path = path
        self._lines = _split(path, pieces)
        self._number = 0
        self._gathered = 0

    def __next__(self) -> str:
        line = next(self._lines)
        self._number += 1
        self._gathered += len(line)
        if self._gathered > _MAX_ROW:
            raise _invalid(
                self._path,
                f"has a row of more than {_MAX_ROW} characters up to line {self._number}",
                f"close the quote that one of its fields begins with, {_OR_RAW}",
            )
        return line

    def row_ends(self) -> None:
        """What follows is another row."""
        self._gathered = 0


def _split(path: str, pieces: Iterator[bytes]) -> Iterator[str]:
    """Lines with their ends, decoded as UTF-8 (a byte order mark is skipped)."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest = ""
    number = 0
    for piece in pieces:
        try:
            text = rest + decoder.decode(piece)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, number + 1, error) from None
        # Not splitlines: it would also break at form feeds and the like inside a field.
        *lines, rest = text.split("\n")
        for line in lines:
            number += 1
            yield line + "\n"
        if len(rest) > _MAX_ROW:
            raise _invalid(
                path,
                f"has more than {_MAX_ROW} characters in line {number + 1}",
                f"save it as text with line ends, {_OR_RAW}",
            )
    try:
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number + 1, error) from None
    if rest:
        yield rest


def _not_utf8(path: str, line: int, error: UnicodeDecodeError) -> DatasetInvalid:
    """Args:
    line: Number of the line that the bytes given to the decoder begin in.
    """
    line += error.object[: error.start].count(b"\n")
    return _invalid(path, f"is not UTF-8 text in line {line}", "save it as UTF-8")


def _invalid(path: str, what: str, remedy: str) -> DatasetInvalid:
    return DatasetInvalid(f"{path} {what}; {remedy}", file=path)
