"""The charts of the report, each small enough to be read on a phone: bars, dots and lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...figures import AFTER, BEFORE, COLOURS, INK, MUTED, PAPER, RULE, new_figure, tidy, title
from .curves import Curve
from .texts import digits, elided

_WIDTH = 4.4  # inches; as wide as a phone shows without shrinking the print
_ABOVE, _ROW, _BELOW = 0.56, 0.46, 0.06  # inches: for title and note, for each bar with its name, and under the last
_SIDE = 0.1
_MOST_POINTS = 400  # of a curve: more could not be told apart


@dataclass(frozen=True)
class Bar:
    """One bar with a line of text above it; before in grey, after in colour on top of it."""

    name: str
    text: str
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True)
class Dot:
    """One point of a frontier."""

    name: str
    quality: float
    area: float
    """From 0 to 1."""
    colour: str
    beaten: bool
    """Whether another is better in everything."""


def bars(heading: str, note: str, rows: Sequence[Bar]) -> Any:
    """A figure of horizontal bars, all on one scale that begins at zero."""
    height = _ABOVE + _ROW * len(rows) + _BELOW
    figure = new_figure(_WIDTH, height)
    inside = 1 - 2 * _SIDE / _WIDTH
    panel = figure.add_axes((_SIDE / _WIDTH, _BELOW / height, inside, _ROW * len(rows) / height))
    title(panel, elided(heading, 44), elided(note, 54))
    values = [value for row in rows for value in (row.before, row.after) if value is not None]
    panel.set_xlim(0, max([*values, 0.0]) or 1)
    panel.set_ylim(len(rows), 0)
    for i, row in enumerate(rows):
        most = 48 - len(row.text)
        panel.text(0, i + 0.4, elided(row.name, most), size=9.5, color=INK, transform=panel.get_yaxis_transform())
        panel.text(1, i + 0.4, row.text, size=9.5, color=MUTED, ha="right", transform=panel.get_yaxis_transform())
        panel.barh(i + 0.68, 1, 0.28, color=RULE, alpha=0.35, transform=panel.get_yaxis_transform())
        if row.before is not None:
            panel.barh(i + 0.68, row.before, 0.28, color=BEFORE)
        if row.after is not None:
            panel.barh(i + 0.68, row.after, 0.28 if row.before is None else 0.14, color=AFTER)
    panel.set_xticks([])
    panel.set_yticks([])
    tidy(panel, axes=())
    return figure


def dots(
    heading: str,
    note: str,
    points: Sequence[Dot],
    costs: Sequence[float],
    labels: tuple[str, str],
    upwards: bool,
) -> Any:
    """A figure of quality over cost, better ones up and to the left, with the line that none is beyond.

    Args:
        heading: its title.
        note: the line under that.
        points: at least one.
        costs: of each point, less being better.
        labels: of the two axes.
        upwards: whether more quality is better; otherwise the axis is turned round.
    """
    figure = new_figure(_WIDTH, 3.5)
    panel = figure.add_axes((0.17, 0.14, 0.79, 0.7))
    title(panel, elided(heading, 44), elided(note, 54))
    placed = list(zip(costs, points, strict=True))
    edge = _edge(placed, upwards)
    panel.step(*zip(*edge, strict=True), where="post", color=RULE, linewidth=1.4, zorder=1)
    for cost, point in placed:
        looks = {"facecolor": PAPER, "edgecolor": point.colour} if point.beaten else {"facecolor": point.colour}
        panel.scatter([cost], [point.quality], s=math.pi * _radius(point) ** 2, linewidth=1.2, zorder=3, **looks)
    panel.margins(x=0.12, y=0.22)
    panel.set_xlim(left=0)
    if not upwards:
        panel.invert_yaxis()
    panel.set_xlabel(labels[0], size=9, color=MUTED)
    panel.set_ylabel(elided(labels[1], 30), size=9, color=MUTED)
    panel.locator_params(nbins=5)
    panel.ticklabel_format(useOffset=False)
    tidy(panel)
    _name_dots(panel, placed)
    return figure


def _radius(dot: Dot) -> float:
    """In points; its area grows with what it stands for, but it stays a dot."""
    return math.sqrt(10 + 70 * dot.area)


def _edge(placed: Sequence[tuple[float, Dot]], upwards: bool) -> list[tuple[float, float]]:
    """The points that none is both to the left of and above, from left to right."""
    sign = 1 if upwards else -1
    edge: list[tuple[float, float]] = []
    for cost, point in sorted(placed, key=lambda each: (each[0], -sign * each[1].quality)):
        if not edge or sign * point.quality > sign * edge[-1][1]:
            edge.append((cost, point.quality))
    return edge


def _name_dots(panel: Any, placed: Sequence[tuple[float, Dot]]) -> None:
    """Writes each name beside its point, on the side that has room, clear of the names written before."""
    panel.get_xlim(), panel.get_ylim()  # settles them, which the transforms below do not by themselves
    to_points = 72 / panel.figure.dpi
    left, right = (panel.transAxes.transform((share, 0))[0] * to_points for share in (0, 1))
    seen = [(panel.transData.transform((cost, dot.quality)) * to_points, cost, dot) for cost, dot in placed]
    taken: list[tuple[float, float, float]] = []
    for (x, y), cost, dot in sorted(seen, key=lambda each: each[0][1]):
        name = elided(dot.name, 24)
        width, gap = 5.5 * len(name), _radius(dot) + 2
        beside = x + gap + width <= right or x - gap - width < left
        begin = x + gap if beside else x - gap - width
        height = y + 3  # above the line through it
        while any(begin < end and start < begin + width and abs(height - other) < 10 for start, end, other in taken):
            height += 2
        taken.append((begin, begin + width, height))
        panel.annotate(
            name,
            (cost, dot.quality),
            (gap if beside else -gap, height - y),
            textcoords="offset points",
            size=9,
            color=INK,
            ha="left" if beside else "right",
            zorder=4,
        )


def lines(heading: str, note: str, curves: Mapping[str, Curve], marked: bool = False) -> Any:
    """A figure of curves over steps, the first in front; named at their ends if there are several.

    Args:
        heading: its title.
        note: the line under that.
        curves: at least one.
        marked: shows the points themselves, for what was measured now and then.
    """
    figure = new_figure(_WIDTH, 2.9)
    panel = figure.add_axes((0.17, 0.18, 0.79 if len(curves) == 1 else 0.6, 0.63))
    title(panel, elided(heading, 44), elided(note, 54))
    colours = (*COLOURS[1:], COLOURS[0])  # the strong ones first
    ends: list[tuple[float, str, str]] = []
    for i, (name, curve) in enumerate(curves.items()):
        shown, colour = curve.thinned(_MOST_POINTS), colours[i % len(colours)]
        looks = {"marker": "o", "markersize": 4} if marked or len(shown.steps) == 1 else {}
        panel.plot(
            shown.steps, shown.values, color=colour, linewidth=1.6 if i == 0 else 1.1, zorder=3 - (i > 0), **looks
        )
        ends.append((shown.values[-1], name, colour))
    panel.margins(x=0.02, y=0.1)
    panel.locator_params(nbins=5)
    panel.ticklabel_format(style="plain", axis="x", useOffset=False)
    panel.yaxis.set_major_formatter(lambda value, _: digits(value))
    panel.set_xlabel("step", size=9, color=MUTED)
    tidy(panel)
    if len(ends) > 1:
        _name_ends(panel, ends)
    return figure


def _name_ends(panel: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Writes each curve's name to the right of its end, from the lowest up, each clear of the one below it."""
    low, high = panel.get_ylim()
    height = low - (high - low)
    for value, name, colour in sorted(ends):
        height = max(value, height + 0.09 * (high - low))
        panel.annotate(
            elided(name, 16),
            (1.03, height),
            xycoords=("axes fraction", "data"),
            size=9,
            color=colour,
            va="center",
            annotation_clip=False,
        )
