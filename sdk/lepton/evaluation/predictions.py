"""What a model said of each row of its test split, as it is kept beside the model.

A file is NumPy's compressed archive without pickles. Where whole outputs would take too much,
each row's most probable class and the probability of its true class are kept alone, and of very
many rows a part that every model of the same test split has alike.
"""

from __future__ import annotations

import io
import json
import zipfile
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
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                about = json.loads(stored["about"].tobytes())
                return cls(
                    about["kind"],
                    about["test_digest"],
                    about["test_rows"],
                    tuple(about["class_names"]),
                    stored["truth"],
                    stored.get("outputs"),
                    stored["predicted"],
                    stored["chosen"],
                )
        except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise PredictionsUnreadable(f"it is damaged ({error})") from None
