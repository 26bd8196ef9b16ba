"""Draws a power plan with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekern.energy.points import PowerPlan, PowerPoint
from edgekern.figures import COLOURS, INK, MUTED, new_figure, tidy, title


def draw(plan: PowerPlan, path: Path) -> None:
    """Writes a PNG.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure = new_figure(8, 5)
    panel = figure.subplots()
    formats = list(dict.fromkeys(point.format for point in plan))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(formats)}
    if plan.least_energy is None:
        _times(panel, plan, colours)
        note = "no energy was measured"
    else:
        _energies(panel, plan, colours)
        note = f"by {plan.source}, {plan.scope}; the number beside a point is that of its threads"
    title(panel, "Time and energy of a call", f"{plan.target}; {note}")
    tidy(panel)
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
                _said(plan, point), (point.ms, point.joules), (6, 4), textcoords="offset points", size=8, color=INK
            )
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    panel.margins(x=0.3)
    panel.set_xlabel("ms a call", size=9, color=MUTED)
    panel.set_ylabel("J a call", size=9, color=MUTED)
    panel.legend(frameon=False, fontsize=9, labelcolor=INK)


def _said(plan: PowerPlan, point: PowerPoint) -> str:
    if point is plan.least_energy:
        return f"least energy: {point.name}"
    return f"fastest: {point.name}" if point is plan.fastest else str(point.threads)


def _times(panel: Any, plan: PowerPlan, colours: dict[str, str]) -> None:
    """A bar each, from the top down in the order they were measured."""
    bars = panel.barh(
        [point.name for point in plan], [point.ms for point in plan], color=[colours[point.format] for point in plan]
    )
    panel.bar_label(bars, [f"{point.ms:.3g} ms" for point in plan], padding=3, size=8.5, color=INK)
    panel.invert_yaxis()
    panel.margins(x=0.14)
    panel.set_xlabel("ms a call", size=9, color=MUTED)
