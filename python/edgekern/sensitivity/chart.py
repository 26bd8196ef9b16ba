"""Draws a scan with matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edgekern.sensitivity.result import Sensitivity, SensitivityRow

_LINE, _MARKED = "#c3c9d2", "#0f766e"
_INK, _MUTED = "#1f2933", "#66717f"
_NAMED = 5  # lines that stand out, with their names: more could not be told apart


def draw(scan: Sensitivity, path: Path) -> None:
    """Writes a PNG with a panel for loss, and one for speed-up if there are latencies.

    Raises:
        OSError: ``path`` cannot be written.
    """
    timed = any(row.speedup is not None for row in scan)
    # The object interface instead of pyplot: no display, no global state, nothing left open.
    figure = Figure(figsize=(13 if timed else 7, 4.8), dpi=140, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 1 + timed, squeeze=False)[0]
    _lines(panels[0], scan, lambda row: row.loss)
    _title(panels[0], f"Loss in {scan.metric}", "one layer pruned at a time; the most sensitive are named")
    if timed:
        _lines(panels[1], scan, lambda row: row.speedup)
        panels[1].axhline(1, color=_MUTED, linewidth=0.8, linestyle=":")
        _title(panels[1], "Speed-up over dense int8", f"of the layer alone, {scan.threads} threads")
    figure.subplots_adjust(
        left=0.05 if timed else 0.1, right=0.86 if timed else 0.74, top=0.84, bottom=0.12, wspace=0.5
    )
    figure.savefig(path)


def _lines(panel: Any, scan: Sensitivity, value: Callable[[SensitivityRow], float | None]) -> None:
    """A line for each layer or group, those that end highest in front and with their names at the end."""
    curves = {name: [(row.scheme.share, value(row)) for row in rows] for name, rows in scan.curves().items()}
    known = {name: [(x, y) for x, y in points if y is not None] for name, points in curves.items()}
    ranked = sorted((name for name in known if known[name]), key=lambda name: known[name][-1][1])
    named = dict.fromkeys(ranked[-_NAMED:])
    for name in ranked:
        xs, ys = zip(*known[name], strict=True)
        colour = _MARKED if name in named else _LINE
        panel.plot(xs, ys, color=colour, linewidth=1.4, marker="o", markersize=3, zorder=3 if name in named else 2)
    low, high = panel.get_ylim()
    height = low
    for name in named:  # from the lowest up, each name clear of the one below it
        x, y = known[name][-1]
        height = max(y, height + 0.055 * (high - low))
        panel.annotate(
            name, (x, y), (1.02, height), textcoords=("axes fraction", "data"), size=8, color=_INK, va="center"
        )
    panel.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    panel.set_xlabel("sparsity", size=9, color=_MUTED)
    panel.tick_params(length=0, labelsize=9, labelcolor=_MUTED)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color("#d5dae1")


def _title(panel: Any, title: str, note: str) -> None:
    panel.set_title(title, loc="left", size=11, weight="bold", color=_INK, pad=24)
    panel.text(0.0, 1.035, note, transform=panel.transAxes, size=9.5, color=_MUTED)
