"""Draws what two ranks learn: docs/img/parallel-training.png, for scripts/render_parallel.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = {"one rank": "#1f2933", "two ranks": "#c2571a", "two halves": "#0f766e"}
_OTHERS = "#b8c0c9"
_INK, _MUTED = "#1f2933", "#66717f"


def draw(result: dict[str, Any], path: Path) -> None:
    """Writes a PNG with a column for each kind of norms: the losses, and below how far they are from one rank's.

    Args:
        result: what benchmarks/parallel_training.py wrote.
        path: of the PNG.
    """
    figure = Figure(figsize=(13, 6.4), dpi=140, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(result["norms"]), sharex=True, sharey="row", squeeze=False)
    for (norms, rows), (above, below) in zip(result["norms"].items(), panels.T, strict=True):
        reference = rows[0]["losses"]
        steps = [result["thinned"] * (i + 1) for i in range(len(reference))]
        for row in sorted(rows, key=lambda row: (row["name"] in _COLOURS, row["ranks"])):  # of interest: on top
            look = {"color": _COLOURS.get(row["name"], _OTHERS), "linewidth": 1.3, "label": row["name"]}
            look["linestyle"] = "--" if row["name"] == "two ranks" else "-"  # another one may lie under it
            above.plot(steps, row["losses"], **look)
            if row is not rows[0]:
                away = [abs(a / b - 1) for a, b in zip(row["losses"], reference, strict=True)]
                below.semilogy(steps, [max(each, 1e-9) for each in away], **look)
        above.set_title(norms, loc="left", size=11, weight="bold", color=_INK)
        below.set_xlabel("steps", size=9, color=_MUTED)
        for panel in (above, below):
            _frame(panel)
    panels[0][0].set_ylabel("loss", size=9, color=_MUTED)
    panels[1][0].set_ylabel("from one rank, in proportion", size=9, color=_MUTED)
    panels[0][-1].legend(frameon=False, fontsize=9)
    title = "Two ranks and one: losses while a student is distilled and pruned"
    figure.suptitle(title, x=0.045, y=0.985, ha="left", size=14, weight="bold", color=_INK)
    figure.text(0.045, 0.92, f"means of {result['thinned']} steps", size=9.5, color=_MUTED)
    figure.subplots_adjust(left=0.065, right=0.985, top=0.86, bottom=0.08, wspace=0.06, hspace=0.1)
    figure.savefig(path)


def _frame(panel: Any) -> None:
    panel.tick_params(length=0, labelsize=9, labelcolor=_MUTED, which="both")
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color("#d5dae1")
