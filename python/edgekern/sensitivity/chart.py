"""Draws a scan with matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekern.config import Prune
from edgekern.figures import AFTER, INK, MUTED, new_figure, tidy, title
from edgekern.sensitivity.result import Sensitivity, SensitivityRow

_OTHERS = "#c3c9d2"
_NAMED = 5  # lines that stand out, with their names: more could not be told apart


Value = Callable[[SensitivityRow], float | None]


@dataclass(frozen=True)
class _Line:
    """One line of panels: what is along, and what the second panel shows."""

    along: Value
    label: str
    percent: bool
    faster: Value
    title: str
    """Of the second panel."""


_ZEROS = _Line(
    along=lambda row: row.scheme.share if isinstance(row.scheme, Prune) else None,
    label="sparsity",
    percent=True,
    faster=lambda row: row.speedup_by_zeros,
    title="Speed-up by zeros",
)
_BITS = _Line(
    along=lambda row: row.bits,
    label="bits a weight, scales and biases counted in",
    percent=False,
    faster=lambda row: row.speedup,
    title="Speed-up over floats",
)


def draw(scan: Sensitivity, path: Path) -> None:
    """Writes a PNG with a panel for loss, and one for speed-up if there are latencies; for pruning, and for bits.

    Raises:
        OSError: ``path`` cannot be written.
    """
    pruned = [row for row in scan if isinstance(row.scheme, Prune)]
    others = [row for row in scan if not isinstance(row.scheme, Prune)]
    lines = [(line, rows) for line, rows in ((_ZEROS, pruned), (_BITS, others)) if rows]
    timed = any(row.ms is not None for row in scan)
    figure = new_figure(13 if timed else 7, 4.8 * len(lines))
    panels = figure.subplots(len(lines), 1 + timed, squeeze=False)
    for (line, rows), (first, *second) in zip(lines, panels, strict=True):
        _curves(first, rows, line, lambda row: row.loss)
        title(first, f"Loss in {scan.metric}", "one layer changed at a time; the most sensitive are named")
        for panel in second:
            _curves(panel, rows, line, line.faster)
            panel.axhline(1, color=MUTED, linewidth=0.8, linestyle=":")
            kinds = sorted({repr(row.runs_as) for row in rows if row.runs_as is not None and line is _ZEROS})
            what = f"as {', '.join(kinds)}; " if kinds else ""
            title(panel, line.title, f"{what}each layer called alone, {scan.threads} threads")
    figure.subplots_adjust(
        left=0.05 if timed else 0.1,
        right=0.86 if timed else 0.74,
        top=1 - 0.16 / len(lines),
        bottom=0.12 / len(lines),
        wspace=0.5,
        hspace=0.4,
    )
    figure.savefig(path)


def _curves(panel: Any, rows: list[SensitivityRow], line: _Line, value: Value) -> None:
    """A line for each layer or group, those that end highest in front and with their names at the end."""
    known: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        x, y = line.along(row), value(row)
        if x is not None and y is not None:
            known.setdefault(row.name, []).append((x, y))
    for points in known.values():
        points.sort()
    # What hurts most, and what gains most: at the highest sparsity, or at the fewest bits.
    end = -1 if line.percent else 0
    ranked = sorted(known, key=lambda name: known[name][end][1])
    named = dict.fromkeys(ranked[-_NAMED:])
    for name in ranked:
        xs, ys = zip(*known[name], strict=True)
        colour = AFTER if name in named else _OTHERS
        panel.plot(xs, ys, color=colour, linewidth=1.4, marker="o", markersize=3, zorder=3 if name in named else 2)
    if not line.percent:
        panel.invert_xaxis()  # harder to the right, as for sparsity; the names stand there
    low, high = panel.get_ylim()
    height = low
    for name in named:  # from the lowest up, each name clear of the one below it
        x, y = known[name][end]
        height = max(y, height + 0.055 * (high - low))
        panel.annotate(
            name, (x, y), (1.02, height), textcoords=("axes fraction", "data"), size=8, color=INK, va="center"
        )
    if line.percent:
        panel.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    panel.set_xlabel(line.label, size=9, color=MUTED)
    tidy(panel)
