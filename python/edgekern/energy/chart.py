"""Draws a power plan with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edgekern.energy.points import PowerPlan, PowerPoint

_COLOURS = ("#a9b1bd", "#0f766e", "#b45309", "#1d4ed8", "#7c3aed", "#be123c")  # a format each, and again from the first
_INK, _MUTED = "#1f2933", "#66717f"


def draw(plan: PowerPlan, path: Path) -> None:
    """Writes a PNG.

    Raises:
        OSError: ``path`` cannot be written.
    """
    # The object interface instead of pyplot: no display, no global state, nothing left open.
    figure = Figure(figsize=(8, 5), dpi=140, facecolor="white")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    formats = list(dict.fromkeys(point.format for point in plan))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(formats)}
    if plan.least_energy is None:
        _times(panel, plan, colours)
        note = "no energy was measured"
    else:
        _energies(panel, plan, colours)
        note = f"by {plan.source}, {plan.scope}; the number beside a point is that of its threads"
    panel.set_title("Time and energy of a call", loc="left", size=11, weight="bold", color=_INK, pad=24)
    panel.text(0.0, 1.035, f"{plan.target}; {note}", transform=panel.transAxes, size=9.5, color=_MUTED)
    panel.tick_params(length=0, labelsize=9, labelcolor=_MUTED)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color("#d5dae1")
    figure.subplots_adjust(left=0.32 if plan.least_energy is None else 0.12, right=0.96, top=0.84, bottom=0.12)
    figure.savefig(path)


def _energies(panel: Any, plan: PowerPlan, colours: dict[str, str]) -> None:
    """A point each; those that are best are named."""
    for name, colour in colours.items():
        points = [point for point in plan if point.format == name and point.joules is not None]
        panel.scatter([point.ms for point in points], [point.joules for point in points], color=colour, label=name)
    for point in plan:
        if point.joules is not None:
            panel.annotate(
                _said(plan, point), (point.ms, point.joules), (6, 4), textcoords="offset points", size=8, color=_INK
            )
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    panel.margins(x=0.3)
    panel.set_xlabel("ms a call", size=9, color=_MUTED)
    panel.set_ylabel("J a call", size=9, color=_MUTED)
    panel.legend(frameon=False, fontsize=9, labelcolor=_INK)


def _said(plan: PowerPlan, point: PowerPoint) -> str:
    if point is plan.least_energy:
        return f"least energy: {point.name}"
    return f"fastest: {point.name}" if point is plan.fastest else str(point.threads)


def _times(panel: Any, plan: PowerPlan, colours: dict[str, str]) -> None:
    """A bar each, from the top down in the order they were measured."""
    bars = panel.barh(
        [point.name for point in plan], [point.ms for point in plan], color=[colours[point.format] for point in plan]
    )
    panel.bar_label(bars, [f"{point.ms:.3g} ms" for point in plan], padding=3, size=8.5, color=_INK)
    panel.invert_yaxis()
    panel.margins(x=0.14)
    panel.set_xlabel("ms a call", size=9, color=_MUTED)
