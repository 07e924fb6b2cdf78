"""The figures of ``bench.inference`` as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.ours import SERVER
from bench.rounds import Row

_OURS, _OTHERS = "#2a6fdb", "#9aa5b1"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draws requests a second, a panel for each model and number in flight."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row.loads and not (row.beside and row.server == SERVER)]
    if not rows:
        return
    models = list(dict.fromkeys(row.model for row in rows))
    loads = sorted({row.in_flight for row in rows})
    labels = list(dict.fromkeys(_label(row) for row in rows))
    figure, panels = pyplot.subplots(
        len(models),
        len(loads),
        figsize=(4.6 * len(loads), (0.9 + 0.27 * len(labels)) * len(models)),
        squeeze=False,
    )
    for model, line in zip(models, panels, strict=True):
        for in_flight, panel in zip(loads, line, strict=True):
            own = [row for row in rows if (row.model, row.in_flight) == (model, in_flight)]
            own.sort(key=lambda row: row.median("requests_per_second"))
            rates = [row.median("requests_per_second") for row in own]
            colours = [_OURS if row.server == SERVER else _OTHERS for row in own]
            bars = panel.barh([_label(row) for row in own], rates, color=colours)
            panel.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
            panel.set_title(f"{model}, {in_flight} in flight", fontsize=10)
            panel.tick_params(labelsize=8)
            # Numbers for the eye beside each other; those without a server dwarf the rest.
            panel.set_xscale("log")
            panel.margins(x=0.2)
            panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Requests a second of one row each (logarithmic)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _label(row: Row) -> str:
    return row.server if row.protocol == "none" else f"{row.server}, {row.protocol}"
