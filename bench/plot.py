"""The figures of ``bench.inference`` as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.ours import IN_PROCESS, SERVER
from bench.rounds import Row

_OURS, _OTHERS = "#2a6fdb", "#9aa5b1"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draws requests a second, a panel for each model and number in flight."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

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
            bars = panel.barh(
                [_label(row) for row in shown], [min(rate, edge) for rate in rates], color=colours
            )
            panel.bar_label(
                bars,
                [f"{rate:,.{0 if rate >= 100 else 1}f}" for rate in rates],
                padding=3,
                fontsize=8,
            )
            panel.set_title(f"{model}, {in_flight} in flight", fontsize=10)
            panel.tick_params(labelsize=8, bottom=False, labelbottom=False)
            panel.set_xlim(0, 1.2 * edge)
            panel.spines[["top", "right", "bottom"]].set_visible(False)
    figure.suptitle("Requests a second, of one row each")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _serves(row: Row) -> bool:
    return row.server != IN_PROCESS


def _label(row: Row) -> str:
    return f"{row.server}, {row.protocol}" if _serves(row) else f"{row.server}, no server"
