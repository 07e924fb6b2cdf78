"""The kinds of data that recipes train on: how files are read, and what a network is told of them.

A kind is its settings (``spec.data``, checked before a job runs) and the shape that
networks are built from; the reading itself is in ``lepton_training.worker.data``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lepton_training.recipes.hyperparameters import DataSettings, Fault


@dataclass(frozen=True)
class DataKind:
    """One kind of data."""

    id: str
    """Also the module of ``lepton_training.worker.data`` that reads it."""
    settings: type[DataSettings]
    formats: tuple[str, ...]
    """Formats of dataset versions that it can be read from, as storage names them."""
    shape: type
    raw_images: bool = False
    """Whether networks are served UINT8 pixels ``[N, H, W]``, or ``[N, H, W, 3]`` of colors, which
    are scaled in the graph."""


@dataclass(frozen=True, slots=True)
class ImageShape:
    """Images, FP32 ``[N, channels, height, width]`` in [0, 1], and the number of their classes."""

    height: int
    width: int
    classes: int
    channels: int = 1
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    """Of each channel: what is taken off and what is then divided by; empty leaves [0, 1]."""
    features: tuple[str, ...] = ()
    """What the network is shown beside the pixels, by the names of ``data.features``."""

    @property
    def inputs(self) -> int:
        """Channels that the network itself sees: those of the image, and of its edges."""
        return self.channels + ("edges" in self.features)


@dataclass(frozen=True, slots=True)
class TableShape:
    """Rows of a table: FP32 ``[N, numbers]`` where there are any, then INT64 codes
    ``[N, len(categories)]`` where there are any."""

    numbers: int
    categories: tuple[int, ...]
    """How many codes each column has; 0 is what training did not see."""
    outputs: int


@dataclass(frozen=True, slots=True)
class TextShape:
    """Texts: INT64 codes ``[N, length]``, filled up with 0 at the end; 1 is an unknown token."""

    vocabulary: int
    """How many codes there are, those two included."""
    outputs: int


@dataclass(frozen=True, slots=True)
class SeriesShape:
    """Windows of a series: FP32 ``[N, window, features]``, scaled."""

    window: int
    features: int
    outputs: int
    last_factor: float = 1.0
    last_shift: float = 0.0
    """From the target of a window's last step to the unit of the outputs: times the factor, plus
    the shift."""


class CleanedSettings(DataSettings):
    """How much of a split may be of no use."""

    max_invalid_fraction: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of a split's rows that may be left out because they cannot be used; of "
        "more the job fails, and says why.",
    )


class SplitSettings(CleanedSettings):
    """Which files hold which split."""

    train: str = Field(
        "",
        max_length=1024,
        description="File of the training split, or a pattern such as train/*.csv; empty takes "
        "every file that can be read. A file of the test split is never among them.",
    )
    test: str = Field(
        "",
        max_length=1024,
        description="File or pattern of the test split; empty holds out test_share of the rows.",
    )
    test_share: float = Field(
        0.2, gt=0, le=0.9, description="Share of the rows that are held out; without test only."
    )

    def conflicts(self) -> Iterator[Fault]:
        if self.test and self.test_share != type(self).model_fields["test_share"].default:
            yield Fault("test_share", "has no effect with test; leave one of them out")


class FileSettings(SplitSettings):
    """Which files hold which split, and how text is told apart in them."""

    header: list[str] = Field(
        [],
        max_length=10_000,
        description="Names of the columns, for files that do not begin with a line of names.",
    )
    separator: str = Field(
        ",",
        min_length=1,
        max_length=1,
        description="What stands between two fields; in files that end in .tsv a tab, if it is not "
        "set.",
    )
    missing: list[str] = Field(
        ["", "?", "NA", "N/A", "NaN", "nan", "null"],
        max_length=100,
        description="What a field says, spaces aside, that has no value.",
    )

    def conflicts(self) -> Iterator[Fault]:
        yield from super().conflicts()
        if len(set(self.header)) != len(self.header):
            yield Fault("header", "has a name twice")


class ImageFileSettings(FileSettings):
    """Images with a class each: the four IDX files; or PNG and JPEG files in a folder a class,
    also inside of archives; or such files and a table of their paths and classes."""

    path: str = Field("path", min_length=1, description="In tables, the column of the file's path.")
    target: str = Field("label", min_length=1, description="In tables, the column of the class.")
    height: int = Field(
        0,
        ge=0,
        le=4096,
        description="Rows of pixels that images are brought to, in training and at an endpoint, "
        "which then takes any size; 0 leaves them as they are, all of one size.",
    )
    width: int = Field(0, ge=0, le=4096, description="Columns of pixels, likewise.")
    resize: Literal["stretch", "fit", "fill"] = Field(
        "stretch",
        description="Of images with other proportions: stretch changes them; fit shows all of the "
        "image, with black beside it; fill cuts off what is too much, as much at either side.",
    )

    def conflicts(self) -> Iterator[Fault]:
        yield from super().conflicts()
        if bool(self.height) != bool(self.width):
            yield Fault("width" if self.height else "height", "must be given with the other side")
        if self.resize != "stretch" and not self.height:
            yield Fault("resize", "has no effect without height and width")


class ImageSettings(ImageFileSettings):
    """Images that are told apart by their classes."""

    color: Literal["auto", "grey", "rgb"] = Field(
        "auto",
        description="What images are read as; auto is rgb where any training image has colors. "
        "IDX files are grey.",
    )
    scaling: Literal["minmax", "symmetric", "standard"] = Field(
        "minmax",
        description="What becomes of pixels: minmax, [0, 1]; symmetric, [-1, 1]; standard, each "
        "channel with mean 0 and deviation 1 in training.",
    )
    features: list[Literal["edges", "texture", "color"]] = Field(
        [],
        description="What the network is shown beside the pixels: edges, the steepness at each "
        "pixel (Sobel); texture, a histogram of local binary patterns (Ojala et al. 2002); color, "
        "a histogram of each channel.",
    )
    blank: Literal["leave_out", "keep"] = Field(
        "leave_out", description="What becomes of images that have one color throughout."
    )

    def conflicts(self) -> Iterator[Fault]:
        yield from super().conflicts()
        if len(set(self.features)) != len(self.features):
            yield Fault("features", "has a name twice")


def _label(value: Any) -> Any:
    """A label as text: IDX files number theirs, and numbers of a protobuf Struct are doubles."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Label = Annotated[str, BeforeValidator(_label)]
"""The name of a class, which IDX files number from 0."""


class AnomalySettings(ImageFileSettings):
    """Which images are anomalies."""

    anomalies: list[Label] = Field(
        min_length=1,
        max_length=255,
        description="Labels that are anomalies: left out of training, and to be found in the test "
        "split.",
    )


class GenerationSettings(ImageFileSettings):
    """Which images are generated."""

    labels: list[Label] = Field(
        [], max_length=256, description="Labels whose images are learnt; empty takes all."
    )


class TableSettings(FileSettings):
    """Rows of CSV or Parquet files, one column of which is to be predicted."""

    target: str = Field(min_length=1, description="The column to predict.")
    task: Literal["classification", "regression"] = Field(
        "classification", description="Whether the target is a class or a number."
    )
    target_strip: str = Field(
        "",
        max_length=100,
        description="Characters to take off both ends of the target beside spaces, such as a full "
        "stop.",
    )
    drop: list[str] = Field([], description="Columns that are not looked at.")
    numbers: list[str] = Field(
        [],
        description="Columns that are numbers; empty takes those all of whose values are. Rows in "
        "which one is something else are left out.",
    )
    scaling: Literal["quantile", "standard", "minmax", "symmetric", "none"] = Field(
        "quantile",
        description="What becomes of numbers: quantile, a place between the quantiles of training "
        "(piecewise linear encoding, Gorishniy et al. 2022); standard, mean 0 and deviation 1; "
        "minmax, [0, 1]; symmetric, [-1, 1].",
    )
    bins: int = Field(32, ge=2, le=256, description="Pieces between quantiles; of quantile only.")
    impute: Literal["median", "mean", "most_frequent", "constant", "zero"] = Field(
        "median",
        description="What stands for a missing number; a column that has some in training also "
        "tells the network which. constant is impute_value.",
    )
    impute_value: float = Field(
        0.0, description="The number that stands for a missing one; of constant only."
    )
    impute_category: Literal["own", "most_frequent"] = Field(
        "own",
        description="What a missing category counts as: a category of its own, or the commonest of "
        "its column in training.",
    )
    min_count: int = Field(
        5, ge=1, description="Categories that occur less often in training count as unknown."
    )

    def conflicts(self) -> Iterator[Fault]:
        yield from super().conflicts()
        if self.scaling != "quantile" and self.bins != type(self).model_fields["bins"].default:
            yield Fault("bins", f"has no effect with {self.scaling}; use quantile")
        if self.impute_value and self.impute != "constant":
            yield Fault("impute_value", f"has no effect with {self.impute}; use constant")
        for name in ("drop", "numbers"):
            if self.target in getattr(self, name):
                yield Fault(name, f"has the target '{self.target}'; leave it out")
        if self.header and self.target not in self.header:
            yield Fault("target", f"'{self.target}' is not in header")


class TextSettings(FileSettings):
    """Texts with a class each: files in a folder a class, also inside of tar and zip archives, or
    the columns of CSV files."""

    text: str = Field("text", min_length=1, description="In CSV files, the column of the text.")
    target: str = Field("label", min_length=1, description="In CSV files, the column of the class.")
    lower: bool = Field(True, description="Whether ASCII capitals count as small letters.")
    min_count: int = Field(
        2, ge=1, description="Tokens that occur in fewer training texts are unknown."
    )
    max_tokens: int = Field(
        30_000, ge=2, le=1_000_000, description="How many tokens are known at most: the commonest."
    )
    max_length: int = Field(
        0, ge=0, le=100_000, description="Tokens of a text that are read; 0 reads all."
    )
    keep: Literal["first", "last"] = Field(
        "first", description="Which tokens of a longer text are read; of max_length only."
    )

    def conflicts(self) -> Iterator[Fault]:
        yield from super().conflicts()
        if self.keep == "last" and not self.max_length:
            yield Fault("keep", "has no effect without max_length")


class SeriesSettings(FileSettings):
    """A series in a CSV file, one row a step, oldest first; its last part is the test split."""

    target: str = Field(min_length=1, description="The column to forecast.")
    time: str = Field(
        "",
        description="The column of the date or time, ISO 8601; it gives the seasonal average of "
        "training to compare with. Rows whose date cannot be read, or is not later than the one "
        "before, are left out.",
    )
    features: list[str] = Field([], description="Further columns of numbers to look at.")
    window: int = Field(30, ge=1, le=10_000, description="Steps that a forecast looks back on.")
    horizon: int = Field(1, ge=1, le=1000, description="Steps that are forecast.")
    test_rows: int = Field(
        0, ge=0, description="How many of the last rows are the test split; 0 takes test_share."
    )
    scaling: Literal["standard", "minmax", "symmetric", "none"] = Field(
        "standard",
        description="What becomes of the numbers of a window: standard, mean 0 and deviation 1; "
        "minmax, [0, 1]; symmetric, [-1, 1].",
    )
    impute: Literal["leave_out", "median", "mean", "most_frequent", "constant"] = Field(
        "leave_out",
        description="What stands for a missing number: nothing, its row is left out; or what "
        "training says, and then an endpoint takes NaN too. constant is impute_value.",
    )
    impute_value: float = Field(
        0.0, description="The number that stands for a missing one; of constant only."
    )

    def conflicts(self) -> Iterator[Fault]:
        yield from super().conflicts()
        share = type(self).model_fields["test_share"].default
        if self.test_rows and (self.test or self.test_share != share):
            yield Fault("test_rows", "cannot be given with test or test_share")
        if self.impute_value and self.impute != "constant":
            yield Fault("impute_value", f"has no effect with {self.impute}; use constant")
        if self.target in self.features:
            yield Fault("features", f"has the target '{self.target}'; leave it out")


_IDX = ("DATASET_FORMAT_IDX",)
_FILES = ("DATASET_FORMAT_RAW",)
_TABLES = ("DATASET_FORMAT_CSV", *_FILES)

IMAGES = DataKind("images", ImageSettings, (*_IDX, *_FILES), ImageShape, raw_images=True)
IMAGE_ANOMALIES = DataKind(
    "image_anomalies", AnomalySettings, (*_IDX, *_FILES), ImageShape, raw_images=True
)
IMAGE_GENERATION = DataKind("image_generation", GenerationSettings, (*_IDX, *_FILES), ImageShape)
TABLE = DataKind("table", TableSettings, _TABLES, TableShape)
TEXT = DataKind("text", TextSettings, _TABLES, TextShape)
SERIES = DataKind("series", SeriesSettings, _TABLES, SeriesShape)
