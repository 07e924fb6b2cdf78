"""The examples: which spec below docs/examples, on which data, and what it is to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lepton.api.storage.v1 import storage_pb2
from lepton_local.demo.dataset import FILES, DataMissing


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset as it lies on the disk, before it is pushed."""

    name: str
    """The dataset's id, and its folder below the one that is given."""
    files: tuple[str, ...]
    format: storage_pb2.DatasetFormat
    source: str
    """Where whoever lacks it finds it."""

    def find(self, folder: Path) -> dict[str, Path]:
        """Path in the version to local file.

        Raises:
            DataMissing: Names the files that are not below ``folder``, and where to get them.
        """
        found = {name: folder / self.name / name for name in self.files}
        missing = [str(path) for path in found.values() if not path.is_file()]
        if missing:
            raise DataMissing(f"no {', '.join(missing)}; {self.source}")
        return found


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure of the test split is to reach; the mean, where there are several seeds."""

    metric: str
    least: float | None = None
    below: str = ""
    """Another figure, that it is to be less than; of ``least`` and ``below`` one is given."""

    def reached(self, metrics: Mapping[str, float]) -> bool:
        """Whether ``metrics`` do; False where a figure is missing."""
        figure = metrics.get(self.metric)
        if figure is None:
            return False
        if self.least is not None:
            return figure >= self.least
        return self.below in metrics and figure < metrics[self.below]

    def __str__(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"< {self.below}"


@dataclass(frozen=True, slots=True)
class Example:
    """One spec of docs/examples."""

    name: str
    """Its file there, without the ending."""
    data: Data
    aims: tuple[Aim, ...] = ()
    seeds: tuple[int, ...] = (0,)
    """A job for each: figures that depend much on which rows are held out are told as means."""
    long: bool = False
    """More than about five minutes on two cores: run only when named, or when all are asked for."""

    def spec(self, specs: Path) -> Path:
        """Its file below ``specs``."""
        return specs / f"{self.name}.yaml"


MNIST = Data(
    "mnist",
    tuple(FILES),
    storage_pb2.DATASET_FORMAT_IDX,
    "take the four gzipped IDX files of MNIST, or let `make demo` fetch them into build/mnist",
)
ADULT = Data(
    "adult",
    ("adult-train.csv", "adult-test.csv"),
    storage_pb2.DATASET_FORMAT_RAW,
    "take adult.data and adult.test of https://archive.ics.uci.edu/dataset/2/adult, without the "
    "latter's first line",
)
REVIEWS = Data(
    "reviews",
    ("review_polarity.tar.gz",),
    storage_pb2.DATASET_FORMAT_RAW,
    "take polarity dataset v2.0 of https://www.cs.cornell.edu/people/pabo/movie-review-data",
)
TEMPERATURES = Data(
    "temperatures",
    ("daily-min-temperatures.csv",),
    storage_pb2.DATASET_FORMAT_CSV,
    "take daily minimum temperatures of Melbourne 1981-1990, a CSV file with the columns Date and "
    "Temp",
)

_FIVE_SEEDS = (0, 1, 2, 3, 4)

EXAMPLES = (
    Example("adult", ADULT, (Aim("test_accuracy", 0.85), Aim("roc_auc", 0.905))),
    Example(
        "temperatures",
        TEMPERATURES,
        (Aim("test_rmse", below="persistence_rmse"), Aim("test_rmse", below="seasonal_rmse")),
    ),
    Example("reviews", REVIEWS, (Aim("test_accuracy", 0.86),), seeds=_FIVE_SEEDS),
    Example("mnist-mlp", MNIST, (Aim("test_accuracy", 0.978),)),
    Example("mnist-cnn", MNIST, (Aim("test_accuracy", 0.99),)),
    Example("mnist-anomalies", MNIST),
    Example("reviews-rnn", REVIEWS, (Aim("test_accuracy", 0.72),), seeds=_FIVE_SEEDS, long=True),
    Example("reviews-transformer", REVIEWS, long=True),
    Example("mnist-resnet", MNIST, long=True),
    Example("mnist-dcgan", MNIST, long=True),
)


OF_OWN_DATA = frozenset({"photos"})
"""Specs for data that only their user has: there is nothing to run them on here."""


class UnknownExample(ValueError):
    """No example has such a name."""


def choose(only: Sequence[str], *, everything: bool) -> list[Example]:
    """Those that are named; without names all but the long ones, or all.

    Raises:
        UnknownExample: Says which names there are.
    """
    known = [example.name for example in EXAMPLES]
    if unknown := [name for name in only if name not in known]:
        raise UnknownExample(f"no example {', '.join(unknown)}; there are {', '.join(known)}")
    if only:
        return [example for example in EXAMPLES if example.name in only]
    return [example for example in EXAMPLES if everything or not example.long]
