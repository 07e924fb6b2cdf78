"""The raw test rows of an example, and its figures, measured apart from the training code.

Files are read here once more and figures are scikit-learn's: were both the code of the jobs, a
mistake in it would go unseen. Only which rows are held out is asked of it, since the seed decides.
"""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from lepton.api.registry.v1 import registry_pb2
from lepton_local.demo.dataset import read_test_images
from lepton_training.recipes import RECIPES
from lepton_training.recipes.data import (
    AnomalySettings,
    SeriesSettings,
    TableSettings,
    TextSettings,
)
from lepton_training.spec import JobSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class RawRows:
    """What a model is asked at the gateway."""

    inputs: Mapping[str, Array]
    """``[N, ...]`` by input name, as users have it: pixels, fields, texts, windows."""
    measure: Callable[[Array], dict[str, float]]
    """From the model's outputs ``[N, ...]`` to figures by the names that the job gave them."""

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def read(spec: JobSpec, files: Mapping[str, Path], model: registry_pb2.ModelVersion) -> RawRows:
    """The rows of the test split that the job was evaluated on.

    Args:
        spec: The job's, defaults filled in.
        files: Path in the dataset version to local file.
        model: What the job registered.
    """
    return _READERS[RECIPES[spec.recipe].data.id](spec, files, model)


def _images(spec: JobSpec, files: Mapping[str, Path], model: registry_pb2.ModelVersion) -> RawRows:
    images, labels = read_test_images(next(iter(files.values())).parent)
    return RawRows({_input(model): images}, _classes(labels.astype(np.int64)))


def _anomalies(
    spec: JobSpec, files: Mapping[str, Path], model: registry_pb2.ModelVersion
) -> RawRows:
    images, labels = read_test_images(next(iter(files.values())).parent)
    anomalies = [int(label) for label in cast(AnomalySettings, spec.data).anomalies]
    strange = np.isin(labels, anomalies)
    return RawRows(
        {_input(model): images}, lambda outputs: {"roc_auc": _roc_auc(strange, outputs[:, 0])}
    )


def _noise(spec: JobSpec, files: Mapping[str, Path], model: registry_pb2.ModelVersion) -> RawRows:
    """A generator has no test split; the job judged what it makes of this noise."""
    import torch  # noqa: PLC0415  a second to load, and few examples need it

    latent = cast(Any, spec.hyperparameters).latent
    generator = torch.Generator().manual_seed(spec.seed)
    noise = torch.randn(1000, latent, generator=generator).numpy()

    def measure(outputs: Array) -> dict[str, float]:
        pixels = np.clip(np.rint(outputs), 0, 255)
        return {"samples_deviation": float(pixels.std(axis=0).mean())}

    return RawRows({_input(model): noise}, measure)


def _table(spec: JobSpec, files: Mapping[str, Path], model: registry_pb2.ModelVersion) -> RawRows:
    """Of a table whose target is a class, with a test file of its own."""
    settings = cast(TableSettings, spec.data)
    rows = _read_csv(files[settings.test], settings.separator)
    header = settings.header or rows.pop(0)
    whole = [row for row in rows if len(row) == len(header)]
    columns = dict(zip(header, zip(*whole, strict=True), strict=True))
    strip = f" {settings.target_strip}"
    names = list(model.class_names)
    truth = np.array([names.index(text.strip(strip)) for text in columns[settings.target]])
    inputs = {
        tensor.name: _fields(columns[tensor.name], tensor.datatype, settings.missing)
        for tensor in model.signature.inputs
    }
    return RawRows(inputs, _classes(truth))


def _fields(texts: tuple[str, ...], datatype: str, missing: list[str]) -> Array:
    """A column ``[N, 1]``: FP32, NaN where there is no value, or the texts as they are."""
    if datatype == "BYTES":
        return _bytes(list(texts))
    numbers = ["nan" if text.strip() in missing else text for text in texts]
    return np.array(numbers, np.float32).reshape(-1, 1)


def _texts(spec: JobSpec, files: Mapping[str, Path], model: registry_pb2.ModelVersion) -> RawRows:
    """Of one archive with a folder for each class, a share of which is held out."""
    from lepton_training.worker.data.examples import held_out  # noqa: PLC0415  loads PyTorch

    settings = cast(TextSettings, spec.data)
    texts: list[str] = []
    labels: list[str] = []
    (archive,) = files.values()
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".txt") else None
            if file is not None:
                texts.append(_decoded(file.read()))
                labels.append(PurePosixPath(member.name).parent.name)
    _, chosen = held_out(len(texts), settings.test_share, spec.seed)
    names = list(model.class_names)
    truth = np.array([names.index(labels[row]) for row in chosen.tolist()])
    return RawRows(
        {_input(model): _bytes([texts[row] for row in chosen.tolist()])}, _classes(truth)
    )


def _series(spec: JobSpec, files: Mapping[str, Path], model: registry_pb2.ModelVersion) -> RawRows:
    """Of one column, whose last rows are the test split."""
    settings = cast(SeriesSettings, spec.data)
    (file,) = files.values()
    header, *rows = _read_csv(file, settings.separator)
    column = header.index(settings.target)
    values = np.array([float(row[column]) for row in rows], np.float32)
    first = np.arange(len(values) - settings.test_rows, len(values) - settings.horizon + 1)
    windows = values[first[:, None] + np.arange(-settings.window, 0)]
    truth = values[first[:, None] + np.arange(settings.horizon)]

    def measure(outputs: Array) -> dict[str, float]:
        errors = outputs.astype(np.float64) - truth
        return {"test_rmse": float(np.sqrt((errors**2).mean()))}

    return RawRows({_input(model): windows[:, :, None]}, measure)


_READERS = {
    "images": _images,
    "image_anomalies": _anomalies,
    "image_generation": _noise,
    "table": _table,
    "text": _texts,
    "series": _series,
}


def _input(model: registry_pb2.ModelVersion) -> str:
    return model.signature.inputs[0].name


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _bytes(texts: list[str]) -> Array:
    """``[N, 1]`` of BYTES."""
    return np.array([text.encode() for text in texts], object).reshape(-1, 1)


def _read_csv(path: Path, separator: str) -> list[list[str]]:
    """Its rows, but for empty lines; fields as they are, with their spaces."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [row for row in csv.reader(file, delimiter=separator) if row]


def _classes(truth: npt.NDArray[np.int64]) -> Callable[[Array], dict[str, float]]:
    """Figures of probabilities ``[N, classes]`` against the true classes ``[N]``."""

    def measure(outputs: Array) -> dict[str, float]:
        figures = {"test_accuracy": float((outputs.argmax(axis=1) == truth).mean())}
        if outputs.shape[1] == 2:
            figures["roc_auc"] = _roc_auc(truth == 1, outputs[:, 1])
        return figures

    return measure


def _roc_auc(positive: Array, scores: Array) -> float:
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415  a second to import

    return float(roc_auc_score(positive, scores))
