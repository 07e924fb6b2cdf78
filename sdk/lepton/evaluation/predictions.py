"""What a model said of each row of its test split, as it is kept beside the model.

A file is NumPy's compressed archive without pickles. Where whole outputs would take too much,
each row's most probable class and the probability of its true class are kept alone, and of very
many rows a part that every model of the same test split has alike.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lepton.evaluation import figures
from lepton.evaluation.resampling import Array, Statistics

FILE = "predictions.npz"
ROWS_MAX = 100_000
CELLS_MAX = 4_000_000
"""Outputs that are kept whole: 16 MB before they are compressed."""
BYTES_MAX = 64 << 20
"""Of a file that is read."""
EXPANDED_BYTES_MAX = 512 << 20
"""Of what such a file holds."""

Kind = Literal["classification", "regression", "anomaly"]


class PredictionsUnreadable(ValueError):
    """The file is not one of predictions; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of the rows of one test split."""

    kind: Kind
    test_digest: str
    """``sha256:<64 hex digits>`` of the whole test split."""
    test_rows: int
    """Rows of the test split; those of the arrays may be fewer."""
    class_names: tuple[str, ...]
    truth: Array
    """INT64 ``[rows]`` of classes, BOOL ``[rows]`` of anomalies, FP32 ``[rows, outputs]``."""
    outputs: Array | None
    """FP32: probabilities ``[rows, classes]``, numbers ``[rows, outputs]``, scores ``[rows]``;
    None where they were too many."""
    predicted: Array
    """INT64 ``[rows]``, the most probable class; of classes only, else empty."""
    chosen: Array
    """FP32 ``[rows]``, the probability of the true class; of classes only, else empty."""

    @classmethod
    def of(
        cls,
        kind: Kind,
        truth: Array,
        outputs: Array,
        *,
        test_digest: str = "",
        class_names: tuple[str, ...] = (),
    ) -> Predictions:
        """All rows, with whole ``outputs``, as they are before they are kept."""
        predicted, chosen = np.zeros(0, np.int64), np.zeros(0, np.float32)
        if kind == "classification":
            truth = truth.astype(np.int64)
            predicted = outputs.argmax(axis=1)
            chosen = outputs[np.arange(len(truth)), truth]
        elif kind == "anomaly":
            truth, outputs = truth.astype(bool), outputs.reshape(-1)
        return cls(kind, test_digest, len(truth), class_names, truth, outputs, predicted, chosen)

    def __len__(self) -> int:
        return len(self.truth)

    def bounded(self) -> Predictions:
        """What is kept of it: rows that their number alone decides, and perhaps no outputs."""
        rows: Array | slice = slice(None)
        count = len(self)
        if count > ROWS_MAX:
            rows = np.sort(np.random.default_rng(0).choice(count, ROWS_MAX, replace=False))
            count = ROWS_MAX
        part = self.take(rows)
        if self.kind != "classification" or part.outputs is None or part.outputs.size <= CELLS_MAX:
            return part
        return Predictions(
            self.kind,
            self.test_digest,
            self.test_rows,
            self.class_names,
            part.truth,
            None,
            part.predicted,
            part.chosen,
        )

    def take(self, rows: Array | slice) -> Predictions:
        """Of those rows only."""
        classes = self.kind == "classification"
        return Predictions(
            self.kind,
            self.test_digest,
            self.test_rows,
            self.class_names,
            self.truth[rows],
            None if self.outputs is None else self.outputs[rows],
            self.predicted[rows] if classes else self.predicted,
            self.chosen[rows] if classes else self.chosen,
        )

    def whole(self) -> Array:
        """All outputs.

        Raises:
            PredictionsUnreadable: They were too many to be kept.
        """
        if self.outputs is None:
            raise PredictionsUnreadable("whole outputs were not kept: there were too many")
        return self.outputs

    def statistics(self, *, areas: bool = True) -> Statistics:
        """Its headline figures; without ``areas`` those that take long are left out."""
        if self.kind == "classification":
            classes = len(self.class_names)
            return figures.of_classes(
                self.truth,
                self.predicted,
                self.chosen,
                classes,
                self.outputs if areas else None,
            )
        if self.kind == "anomaly":
            return figures.of_scores(self.truth, self.whole())
        return figures.of_numbers(self.truth, self.whole())

    def write(self, path: Path) -> None:
        """Writes the file."""
        about = {
            "kind": self.kind,
            "test_digest": self.test_digest,
            "test_rows": self.test_rows,
            "class_names": self.class_names,
        }
        arrays = {"truth": self.truth, "predicted": self.predicted, "chosen": self.chosen}
        if self.outputs is not None:
            arrays["outputs"] = self.outputs
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                about=np.frombuffer(json.dumps(about).encode(), np.uint8),
                **arrays,
            )

    @classmethod
    def read(cls, content: bytes) -> Predictions:
        """What a file holds.

        Raises:
            PredictionsUnreadable: It is damaged, too large, or something else.
        """
        if len(content) > BYTES_MAX:
            raise PredictionsUnreadable(f"it has more than {BYTES_MAX >> 20} MiB")
        try:
            stored = _arrays(content)
            about = json.loads(stored["about"].tobytes())
            found = cls(
                about["kind"],
                str(about["test_digest"]),
                int(about["test_rows"]),
                tuple(map(str, about["class_names"])),
                stored["truth"],
                stored.get("outputs"),
                stored["predicted"],
                stored["chosen"],
            )
            found._check()
        except _Damage as error:
            raise PredictionsUnreadable(f"it is damaged: {error}") from None
        except _DAMAGES:
            raise PredictionsUnreadable("it is damaged") from None
        return found

    def _check(self) -> None:
        """Raises _Damage unless all fits together: whoever trains may have written it."""
        rows, classes = len(self.truth), len(self.class_names)
        outputs = self.outputs
        if self.kind == "classification":
            codes = (self.truth, self.predicted)
            fits = (
                all(_is(each, "i", (rows,)) for each in codes)
                and all(((each >= 0) & (each < classes)).all() for each in codes)
                and _is(self.chosen, "f", (rows,))
                and (outputs is None or _is(outputs, "f", (rows, classes)))
            )
        elif outputs is None:
            fits = False
        elif self.kind == "anomaly":
            fits = _is(self.truth, "b", (rows,)) and _is(outputs, "f", (rows,))
        else:
            fits = (
                self.kind == "regression"
                and _is(self.truth, "f", self.truth.shape)
                and _is(outputs, "f", (rows, *outputs.shape[1:]))
                and outputs.size == self.truth.size
            )
        if not fits or not 0 < rows <= ROWS_MAX:
            raise _Damage("its arrays do not fit together")


class _Damage(ValueError):
    """What is wrong with a file, in words of ours."""


_DAMAGES = (
    *(KeyError, ValueError, TypeError, AttributeError, OverflowError),
    *(OSError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What zipfile, NumPy and JSON raise for content that is not what it should be. RuntimeError is
zipfile's for what is encrypted or packed otherwise, and Python's for what is nested too deeply."""


def _arrays(content: bytes) -> dict[str, Array]:
    """The arrays of an ``.npz`` archive, by name.

    Not by ``numpy.load``: it takes the memory that an array's header asks for, before it sees
    how much there is.

    Raises:
        _Damage: It holds too much, or something else.
        Exception: Any other of _DAMAGES, likewise.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > EXPANDED_BYTES_MAX:
            raise _Damage(f"it expands to more than {EXPANDED_BYTES_MAX >> 20} MiB")
        return {
            member.filename.removesuffix(".npy"): _array(_expanded(archive, member))
            for member in members
        }


def _expanded(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member, and no byte more than it says it has: only deflate stops there."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _Damage("it is packed otherwise than by deflate")
    with archive.open(member) as file:
        return file.read(member.file_size)


def _array(data: bytes) -> Array:
    """An array of numbers from the bytes of an ``.npy`` file."""
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise _Damage("an array is not of version 1.0")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise _Damage("an array is not one of numbers, or not whole")
    values = np.frombuffer(data, dtype, offset=file.tell())
    return values.reshape(shape, order="F" if by_columns else "C")


def _is(array: Array, kind: str, shape: tuple[int, ...]) -> bool:
    return array.dtype.kind == kind and array.shape == shape
