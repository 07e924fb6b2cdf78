"""The figures of ``bench.inference`` and of ``bench.training`` as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.ours import IN_PROCESS, SERVER
from bench.rounds import Row
from bench.training_epochs import RECIPE

_OURS, _OTHERS = "#2a6fdb", "#9aa5b1"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draws requests a second, a panel for each model and number in flight."""
    own = {_label(row) for row in rows if row.loads and not row.beside}
    # Beside a peer ours was measured once more, which counts where it was not measured alone.
    rows = [
        row
        for row in rows
        if row.loads and not (row.beside and row.server == SERVER and _label(row) in own)
    ]
    if not rows:
        return
    models = list(dict.fromkeys(row.model for row in rows))
    loads = sorted({row.in_flight for row in rows})
    labels = list(dict.fromkeys(_label(row) for row in rows))
    pyplot = _pyplot()
    figure, panels = pyplot.subplots(
        len(models),
        len(loads),
        figsize=(4.6 * len(loads), (0.9 + 0.27 * len(labels)) * len(models)),
        squeeze=False,
    )
    for model, line in zip(models, panels, strict=True):
        for in_flight, panel in zip(loads, line, strict=True):
            shown = [row for row in rows if (row.model, row.in_flight) == (model, in_flight)]
            shown.sort(key=lambda row: row.median("requests_per_second"))
            rates = [row.median("requests_per_second") for row in shown]
            # What has no server dwarfs the rest: its bar ends at the edge, its number is told.
            most = max((r for r, row in zip(rates, shown, strict=True) if _serves(row)), default=0)
            edge = 1.25 * (most or max(rates))
            colours = [_OURS if row.server == SERVER else _OTHERS for row in shown]
            _bars(
                panel,
                [_label(row) for row in shown],
                rates,
                colours,
                edge=edge,
                told=[f"{rate:,.{0 if rate >= 100 else 1}f}" for rate in rates],
            )
            panel.set_title(f"{model}, {in_flight} in flight", fontsize=10)
    figure.suptitle("Requests a second, of one row each")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot_training(results: Mapping[str, Any], path: Path) -> None:
    """Draws seconds per epoch, a panel for each recipe that was measured."""
    measured = {
        recipe: row["seconds_per_epoch"]
        for recipe, row in results.get("epochs", {}).items()
        if "seconds_per_epoch" in row
    }
    if not measured:
        return
    pyplot = _pyplot()
    figure, panels = pyplot.subplots(
        len(measured), 1, figsize=(7, 1.1 * len(measured) + 0.6), squeeze=False
    )
    for (recipe, seconds), (panel,) in zip(measured.items(), panels, strict=True):
        names = sorted(seconds, key=lambda name: -seconds[name])
        _bars(
            panel,
            [name.replace("_", " ") for name in names],
            [seconds[name] for name in names],
            [_OURS if name == RECIPE else _OTHERS for name in names],
            edge=1.25 * max(seconds.values()),
            told=[f"{seconds[name]:.2f}" for name in names],
        )
        panel.set_title(recipe, fontsize=10, loc="left")
    figure.suptitle("Seconds an epoch, beside plain PyTorch loops")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _bars(
    panel: Any,
    labels: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str],
    *,
    edge: float,
    told: Sequence[str],
) -> None:
    """Bars that end at ``edge`` at the latest, with what is told of each behind it."""
    bars = panel.barh(labels, [min(value, edge) for value in values], color=colours)
    panel.bar_label(bars, told, padding=3, fontsize=8)
    panel.tick_params(labelsize=8, bottom=False, labelbottom=False)
    panel.set_xlim(0, 1.2 * edge)
    panel.spines[["top", "right", "bottom"]].set_visible(False)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _serves(row: Row) -> bool:
    return row.server != IN_PROCESS


def _label(row: Row) -> str:
    return f"{row.server}, {row.protocol}" if _serves(row) else f"{row.server}, no server"
