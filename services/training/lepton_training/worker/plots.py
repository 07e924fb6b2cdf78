"""Pictures of an evaluation, as PNG: drawn in the job's process after training, without a display.

Matplotlib is imported when something is drawn, and without pyplot, which would look for a display
and keep every figure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lepton.evaluation import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[Any]

CURVES = "curves.json"
CURVES_MAX = 10
"""Classes that have a curve each in one picture: the commonest."""
_NAMED_CLASSES = 30
_NUMBERED_CLASSES = 20
_POINTS_MAX = 5000
"""Of a scatter plot, and of a curve: more are not seen, and take time."""
_STORED_POINTS = 200
_MAPS_MAX = 16
_DOTS_PER_INCH = 110


def draw(directory: Path, said: Predictions, document: Mapping[str, Any]) -> tuple[str, ...]:
    """Writes the pictures of a model's predictions and figures, and the points of their curves as
    ``curves.json``; returns the files' names.

    Args:
        document: The evaluation as plain data.
    """
    written = []
    if said.kind != "regression":
        (directory / CURVES).write_text(json.dumps(_points(said)))
        written.append(CURVES)
    for name, painter in _painters(said, document):
        _write(directory / name, painter)
        written.append(name)
    return tuple(written)


def _painters(
    said: Predictions, document: Mapping[str, Any]
) -> Iterator[tuple[str, Callable[[Axes], None]]]:
    if said.kind == "regression":
        truth, outputs = said.truth.reshape(-1), said.whole().reshape(-1)
        yield "predicted.png", lambda axes: _predicted(axes, truth, outputs)
        yield "residuals.png", lambda axes: _residuals(axes, truth, outputs)
        return
    curves = list(_curves(said))
    yield "roc.png", lambda axes: _roc(axes, curves)
    yield "precision-recall.png", lambda axes: _precision_recall(axes, curves)
    if said.kind == "classification":
        yield "reliability.png", lambda axes: _reliability(axes, document)
        if document["confusion_matrix"]:
            matrix = np.array(document["confusion_matrix"])
            yield "confusion.png", lambda axes: _confusion(axes, matrix, said.class_names)


def _write(path: Path, painter: Callable[[Axes], None]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - half a second
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=(6, 5), layout="tight")
    FigureCanvasAgg(figure)
    painter(figure.subplots())
    figure.savefig(path, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})


def draw_maps(
    path: Path, images: Sequence[Array], maps: Sequence[Array], titles: Sequence[str]
) -> None:
    """Writes ``images`` ``[H, W]`` or ``[H, W, 3]`` in [0, 1], and below each its attributions:
    red for, blue against."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - as above
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    shown = min(len(images), _MAPS_MAX)
    figure = Figure(figsize=(1.6 * shown, 3.6), layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, shown, squeeze=False)
    for column in range(shown):
        largest = float(np.abs(maps[column]).max()) or 1.0
        axes[0, column].imshow(images[column], cmap="gray")
        axes[0, column].set_title(_plain(titles[column]), fontsize="small")
        axes[1, column].imshow(maps[column], cmap="RdBu_r", vmin=-largest, vmax=largest)
        for row in range(2):
            axes[row, column].set_axis_off()
    figure.savefig(path, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})


def _curves(said: Predictions) -> Iterator[tuple[str, Array, Array]]:
    """Name, what is positive BOOL ``[rows]``, and scores ``[rows]``, a curve each."""
    outputs = said.whole()
    if said.kind == "anomaly":
        yield "anomalies", said.truth, outputs
        return
    counts = np.bincount(said.truth, minlength=outputs.shape[1])
    common = np.argsort(-counts, kind="stable")[:CURVES_MAX]
    chosen = [1] if outputs.shape[1] == 2 else sorted(int(label) for label in common)
    for label in chosen:
        positive = said.truth == label
        if positive.any() and not positive.all():
            yield said.class_names[label], positive, outputs[:, label]


def _steps(positive: Array, scores: Array, points: int = _POINTS_MAX) -> tuple[Array, Array]:
    """Positives and negatives from the highest score down to each score, thinned."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found = np.cumsum(positive[order])[last]
    missed = last + 1 - found
    at = np.unique(np.linspace(0, len(last) - 1, min(len(last), points)).astype(np.int64))
    return found[at], missed[at]


def _points(said: Predictions) -> list[dict[str, Any]]:
    """Both curves of each class, from the highest score down."""
    points = []
    for name, positive, scores in _curves(said):
        found, missed = _steps(positive, scores, _STORED_POINTS)
        recall = (found / positive.sum()).tolist()
        points.append(
            {
                "class": name,
                "false_positive_rate": (missed / (~positive).sum()).tolist(),
                "true_positive_rate": recall,
                "recall": recall,
                "precision": (found / (found + missed)).tolist(),
            }
        )
    return points


def _roc(axes: Axes, curves: Sequence[tuple[str, Array, Array]]) -> None:
    for name, positive, scores in curves:
        found, missed = _steps(positive, scores)
        axes.plot(
            np.r_[0, missed / (~positive).sum()],
            np.r_[0, found / positive.sum()],
            label=_plain(name),
        )
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    axes.legend(fontsize="small")


def _precision_recall(axes: Axes, curves: Sequence[tuple[str, Array, Array]]) -> None:
    for name, positive, scores in curves:
        found, missed = _steps(positive, scores)
        axes.step(found / positive.sum(), found / (found + missed), where="pre", label=_plain(name))
    axes.set(xlabel="recall", ylabel="precision", title="Precision and recall", ylim=(0, 1.03))
    axes.legend(fontsize="small")


def _reliability(axes: Axes, document: Mapping[str, Any]) -> None:
    bins = [each for each in document["reliability"] if each["examples"]]
    width = bins[0]["upper"] - bins[0]["lower"]
    axes.bar(
        [each["lower"] for each in bins],
        [each["accuracy"] for each in bins],
        width,
        align="edge",
        edgecolor="white",
        label="accuracy",
    )
    axes.plot(
        [each["confidence"] for each in bins],
        [each["accuracy"] for each in bins],
        marker="o",
        color="black",
        linestyle="",
        markersize=4,
        label="at its mean confidence",
    )
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
    axes.set(
        xlabel="confidence",
        ylabel="accuracy",
        xlim=(0, 1),
        ylim=(0, 1.03),
        title=f"Reliability: calibration error {document['calibration_error']:.3f}",
    )
    axes.legend(fontsize="small", loc="upper left")


def _confusion(axes: Axes, matrix: Array, names: Sequence[str]) -> None:
    """Colours are shares of the true class."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion")
    count = len(matrix)
    if count <= _NAMED_CLASSES:
        shown = [_plain(name) for name in names]
        axes.set_xticks(range(count), shown, rotation=90 if max(map(len, shown)) > 3 else 0)
        axes.set_yticks(range(count), shown)
    if count <= _NUMBERED_CLASSES:
        for (row, column), number in np.ndenumerate(matrix):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(
                column, row, str(number), ha="center", va="center", color=colour, fontsize="small"
            )


def _predicted(axes: Axes, truth: Array, outputs: Array) -> None:
    at = _some(len(truth))
    axes.scatter(truth[at], outputs[at], s=6, alpha=0.5, linewidths=0)
    ends = [min(truth.min(), outputs.min()), max(truth.max(), outputs.max())]
    axes.plot(ends, ends, color="grey", linestyle=":")
    axes.set(xlabel="true", ylabel="predicted", title="Predicted and true")


def _residuals(axes: Axes, truth: Array, outputs: Array) -> None:
    at = _some(len(truth))
    axes.scatter(outputs[at], (outputs - truth)[at], s=6, alpha=0.5, linewidths=0)
    axes.axhline(0, color="grey", linestyle=":")
    axes.set(xlabel="predicted", ylabel="predicted less true", title="Residuals")


def _some(count: int) -> Array:
    if count <= _POINTS_MAX:
        return np.arange(count)
    return np.random.default_rng(0).choice(count, _POINTS_MAX, replace=False)


def _plain(name: str) -> str:
    """A name as text: Matplotlib takes what stands between dollar signs for formulas."""
    shown = "".join(each for each in name if each.isprintable())[:30]
    return shown.replace("$", r"\$")
