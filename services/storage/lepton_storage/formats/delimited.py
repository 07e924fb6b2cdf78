"""Comma-separated text with a header line (RFC 4180)."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterator, Mapping

from lepton_storage.errors import DatasetInvalid

_MAX_LINE = 16 << 20  # characters; a quote that never ends would gather the whole file


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
    reader = csv.reader(_lines(path, pieces), strict=True)
    header: list[str] | None = None
    rows = 0
    try:
        for row in reader:
            if not row:
                continue
            if header is None:
                header = row
                _check_header(path, header)
                continue
            if len(row) != len(header):
                raise _invalid(
                    path,
                    f"has {len(row)} fields in line {reader.line_num} and {len(header)} in its "
                    "header",
                    "correct the line, or quote a field that has a comma in it",
                )
            rows += 1
    except csv.Error as error:
        if "field larger than field limit" in str(error):
            raise _invalid(
                path,
                f"has a field of more than {csv.field_size_limit()} characters in line "
                f"{reader.line_num}",
                "shorten it, close the quote that it begins with, or use RAW",
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


def _lines(path: str, pieces: Iterator[bytes]) -> Iterator[str]:
    """Lines with their ends, decoded as UTF-8 (a byte order mark is skipped)."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest = ""
    number = 0
    for piece in pieces:
        try:
            text = rest + decoder.decode(piece)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, number, error) from None
        # Not splitlines: it would also break at form feeds and the like inside a field.
        *lines, rest = text.split("\n")
        for line in lines:
            number += 1
            yield line + "\n"
        if len(rest) > _MAX_LINE:
            raise _invalid(path, f"has no line end after line {number}", "save it as text")
    try:
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number, error) from None
    if rest:
        yield rest


def _not_utf8(path: str, number: int, error: UnicodeDecodeError) -> DatasetInvalid:
    return _invalid(
        path, f"is not UTF-8 text after line {number} ({error.reason})", "save it as UTF-8"
    )


def _invalid(path: str, what: str, remedy: str) -> DatasetInvalid:
    return DatasetInvalid(f"{path} {what}; {remedy}", file=path)
