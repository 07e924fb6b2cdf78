"""Rows of the files of a dataset version, with what was left out and why."""

from __future__ import annotations

import csv
import fnmatch
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from lepton_training.recipes.data import FileSettings, SplitSettings
from lepton_training.worker.data.cleaning import LeftOut
from lepton_training.worker.data.examples import held_out
from lepton_training.worker.data.idx import DatasetInvalid

T = TypeVar("T")
Texts = npt.NDArray[np.object_]
_READABLE = (".csv", ".tsv", ".txt", ".data", ".parquet")
_LARGEST = float(np.finfo(np.float32).max)
_FIELD_MAX = 16 << 20
"""Characters of one field; a text is in one."""
_TOLD = 20
"""Names that an error lists: the first."""


@dataclass
class Places:
    """Where rows come from, for people who look for one."""

    files: tuple[str, ...]
    file: npt.NDArray[np.int64]
    """``[N]``, indices into ``files``."""
    line: npt.NDArray[np.int64]
    """``[N]``, from 1; the row where a file has no lines."""

    def name(self, row: int) -> str:
        """Such as ``train.csv line 17``."""
        file = self.files[self.file[row]]
        return f"{file} {'row' if file.endswith('.parquet') else 'line'} {self.line[row]}"

    def take(self, rows: npt.NDArray[Any]) -> Places:
        """Those of ``rows``, a mask or indices."""
        return Places(self.files, self.file[rows], self.line[rows])


@dataclass
class Table:
    """Columns of text, all as long."""

    columns: dict[str, Texts]
    places: Places
    left_out: LeftOut = field(default_factory=LeftOut)
    """Rows that are not here."""

    def __len__(self) -> int:
        return len(self.places.line)

    @property
    def told(self) -> str:
        """Its columns, for an error: the first twenty."""
        names = list(self.columns)
        more = len(names) - _TOLD
        return ", ".join(names[:_TOLD]) + (f" and {more} more" if more > 0 else "")

    def keep(self, rows: npt.NDArray[np.bool_], reason: str) -> None:
        """Leaves out all but ``rows``, for that reason."""
        lost = np.flatnonzero(~rows)
        if len(lost):
            self.left_out.add(reason, self.places.name(int(lost[0])), len(lost))
            self.columns = {name: values[rows] for name, values in self.columns.items()}
            self.places = self.places.take(rows)

    def take(self, rows: npt.NDArray[np.int64]) -> Table:
        """Those rows, in that order."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Table(columns, self.places.take(rows))


def split_of(path: str, settings: SplitSettings) -> Literal["train", "test", ""]:
    """The split that a file of that path belongs to; ``""`` for one that is not read.

    What is of the test split is not of the training split, whatever ``train`` says. Where no
    pattern tells the test split apart, all belong to the training split.
    """
    if settings.test and fnmatch.fnmatchcase(path, settings.test):
        return "test"
    if not settings.train or fnmatch.fnmatchcase(path, settings.train):
        return "train"
    return ""


def split_files(
    directory: Path, settings: SplitSettings, suffixes: tuple[str, ...] = _READABLE
) -> tuple[list[Path], list[Path]]:
    """Files of the training split and of the test split; the latter are none without ``test``.

    Raises:
        DatasetInvalid: A split has no file.
    """
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = {path: path.relative_to(directory).as_posix() for path in files}
    sides: dict[str, list[Path]] = {"train": [], "test": []}
    for path, name in names.items():
        split = split_of(name, settings)
        # A file that is named is read, whatever its name ends with.
        if split == "test" or (split and (settings.train or name.endswith(suffixes))):
            sides[split].append(path)
    for split, pattern in (("train", settings.train), ("test", settings.test)):
        if not sides[split] and (pattern or split == "train"):
            raise DatasetInvalid(
                f"no file for {_named(split, settings)}; the dataset version has "
                f"{', '.join(list(names.values())[:10])}"
            )
    return sides["train"], sides["test"]


def divide(
    found: Iterable[tuple[str, T]], settings: SplitSettings, *, seed: int, noun: str
) -> tuple[list[T], list[T]]:
    """What was found, each with its path, as training split and test split: by the path, or where
    no pattern tells the test split apart, by the seed.

    Args:
        noun: What errors call one of them.

    Raises:
        DatasetInvalid: No path is like a pattern.
    """
    sides: dict[str, list[T]] = {"train": [], "test": []}
    items = list(found)
    for path, one in items:
        if split := split_of(path, settings):
            sides[split].append(one)
    for name, pattern in (("train", settings.train), ("test", settings.test)):
        if pattern and not sides[name]:
            raise DatasetInvalid(
                f"no {noun}'s path is like {_named(name, settings)}; they are like "
                f"{', '.join(path for path, _ in items[:3])}"
            )
    train = sides["train"]
    if settings.test or len(train) < 2:
        return train, sides["test"]
    kept, out = held_out(len(train), settings.test_share, seed)
    return [train[row] for row in kept.tolist()], [train[row] for row in out.tolist()]


def _named(split: str, settings: SplitSettings) -> str:
    """The setting of a split that has nothing, for an error."""
    pattern = settings.train if split == "train" else settings.test
    named = f"data.{split} ({pattern})" if pattern else f"data.{split}"
    return f"{named} beside those of data.test" if split == "train" and settings.test else named


def read_tables(paths: list[Path], settings: FileSettings) -> Table:
    """The rows of all ``paths``, which have the same columns.

    Raises:
        DatasetInvalid: Names the file and what is wrong with it.
    """
    tables = [_read_parquet(p) if p.suffix == ".parquet" else _read_csv(p, settings) for p in paths]
    first = tables[0]
    for path, table in zip(paths, tables, strict=True):
        if table.columns.keys() != first.columns.keys():
            raise DatasetInvalid(
                f"{path.name} has the columns {table.told} and {paths[0].name} has "
                f"{first.told}; they must be the same",
                file=path.name,
            )
    joined = Table(
        {name: np.concatenate([table.columns[name] for table in tables]) for name in first.columns},
        Places(
            tuple(path.name for path in paths),
            np.repeat(np.arange(len(tables)), [len(table) for table in tables]),
            np.concatenate([table.places.line for table in tables]),
        ),
    )
    for table in tables:
        joined.left_out.include(table.left_out)
    if not len(joined):
        raise DatasetInvalid(f"{', '.join(path.name for path in paths)}: no rows")
    return joined


def parse_numbers(
    values: Texts, missing: list[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Numbers that FP32 has, NaN where there is none, and BOOL ``[N]``: what is something else."""
    blank = set(missing)
    numbers = np.full(len(values), math.nan)
    wrong = np.zeros(len(values), bool)
    for row, text in enumerate(values):
        stripped = text.strip()
        if stripped in blank:
            continue
        try:
            numbers[row] = float(stripped)
        except ValueError:
            wrong[row] = True
        else:
            # Networks count in FP32, where a larger one would be infinite; NaN is none of either.
            wrong[row] = not abs(numbers[row]) <= _LARGEST
    return numbers, wrong


def _separator(path: Path, settings: FileSettings) -> str:
    default = FileSettings.model_fields["separator"].default
    return "\t" if path.suffix == ".tsv" and settings.separator == default else settings.separator


def _read_csv(path: Path, settings: FileSettings) -> Table:
    left_out = LeftOut()
    rows: list[list[str]] = []
    numbers: list[int] = []
    names = settings.header
    csv.field_size_limit(_FIELD_MAX)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=_separator(path, settings))
            for row in reader:
                if not row:
                    continue
                if not names:
                    names = [name.strip() for name in row]
                elif len(row) != len(names):
                    left_out.add(f"not {len(names)} fields", f"{path.name} line {reader.line_num}")
                else:
                    rows.append(row)
                    numbers.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetInvalid(
            f"{path.name} is not UTF-8 text with '{_separator(path, settings)}' between its fields "
            f"({error}); save it so",
            file=path.name,
        ) from None
    if len(set(names)) != len(names):
        raise DatasetInvalid(
            f"{path.name} has a column name twice in its first line; is it a row? Then name the "
            "columns in data.header",
            file=path.name,
        )
    array = np.array(rows, object).reshape(len(rows), len(names))
    columns = {name: array[:, column] for column, name in enumerate(names)}
    return Table(columns, _in_one_file(path, np.array(numbers, np.int64)), left_out)


def _read_parquet(path: Path) -> Table:
    import pyarrow  # noqa: PLC0415 - takes a moment, and few datasets need it
    import pyarrow.parquet  # noqa: PLC0415 - as above

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetInvalid(
            f"{path.name} is not a Parquet file ({str(error).splitlines()[0]}); push it again",
            file=path.name,
        ) from None
    return Table(
        {
            name: np.array(
                ["" if value is None else str(value) for value in table[name].to_pylist()], object
            )
            for name in table.column_names
        },
        _in_one_file(path, np.arange(1, table.num_rows + 1)),
    )


def _in_one_file(path: Path, lines: npt.NDArray[np.int64]) -> Places:
    return Places((path.name,), np.zeros(len(lines), np.int64), lines)
