"""Draws what pruning an encoder gains and costs: docs/img/prune-minilm.png, for scripts/render_prune.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = {"4x4": "#0f766e", "1x4": "#c2571a"}
_INK, _MUTED, _TARGET = "#1f2933", "#66717f", "#e6f2f0"


def draw(result: dict[str, Any], threads: str, speed: float, loss: float, path: Path) -> None:
    """Writes a PNG with a panel for each task: score over speed, a line for each pattern.

    Args:
        result: what benchmarks/prune_frontier.py wrote.
        threads: "1" or "2".
        speed: how far ahead of dense int8 the linear layers are to be.
        loss: the most that the sentiment probe may lose.
        path: of the PNG.
    """
    rows = {row["name"]: row for row in result["rows"]}
    dense, int8 = rows["float32"]["scores"], rows["int8"]
    figure = Figure(figsize=(13, 4.6), dpi=140, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(dense))
    for panel, (task, best) in zip(panels, dense.items(), strict=True):
        panel.axhline(best, color=_MUTED, linewidth=0.8, linestyle=":")
        panel.plot(1, int8["scores"][task], "o", color=_MUTED)
        for pattern, colour in _COLOURS.items():
            points = [int8, *(row for row in result["rows"] if row.get("pattern") == pattern)]
            xs = [int8["times"][threads]["linears"] / row["times"][threads]["linears"] for row in points]
            ys = [row["scores"][task] for row in points]
            panel.plot(xs, ys, color=colour, linewidth=1.6, marker="o", markersize=4, label=f"{pattern} blocks")
            for x, y, row in list(zip(xs, ys, points, strict=True))[1:]:
                label = f"{row['sparsity']:.0%}"
                panel.annotate(label, (x, y), (4, 5), textcoords="offset points", size=8, color=colour)
        if task == "sentiment":
            panel.autoscale(False)
            panel.fill_between([speed, 99], best - loss, 1, color=_TARGET, zorder=0, label="the goal")
        _frame(panel, task)
    panels[-1].legend(frameon=False, fontsize=9, loc="lower left")
    title = f"{result['model']} pruned: what it scores and how much faster its linear layers are"
    figure.suptitle(title, x=0.04, y=0.985, ha="left", size=14, weight="bold", color=_INK)
    note = (
        f"int8, batch {result['batch']} x {result['tokens']} tokens, {threads} thread, against dense int8 · "
        f"dotted: dense float32 · {result['machine']['cpu']}, {result['machine']['isa']}"
    )
    figure.text(0.04, 0.885, note, size=9.5, color=_MUTED)
    figure.subplots_adjust(left=0.05, right=0.98, top=0.77, bottom=0.12, wspace=0.2)
    figure.savefig(path)


def _frame(panel: Any, task: str) -> None:
    panel.set_title(task, loc="left", size=11, weight="bold", color=_INK)
    panel.set_xlabel("linear layers, times as fast as dense int8", size=9, color=_MUTED)
    panel.tick_params(length=0, labelsize=9, labelcolor=_MUTED)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color("#d5dae1")
