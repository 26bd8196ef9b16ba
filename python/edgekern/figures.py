"""How charts look: the colours and axes that all of them share. The only module that knows matplotlib."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#1f2933", "#66717f", "#d5dae1", "#ffffff"
BEFORE, AFTER = "#a9b1bd", "#0f766e"  # grey against teal: apart in print and for colour-blind eyes too
COLOURS = (BEFORE, AFTER, "#b45309", "#1d4ed8", "#7c3aed", "#be123c")  # one each, and again from the first


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches."""
    # The object interface instead of pyplot: no display, no global state, nothing left open.
    figure = Figure(figsize=(width, height), dpi=140, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def title(panel: Any, text: str, note: str, colour: str = MUTED, weight: str = "normal") -> None:
    """Puts a title over a panel, and a line of smaller print between the two."""
    panel.set_title(text, loc="left", size=11, weight="bold", color=INK, pad=24)
    panel.annotate(note, (0, 1), (0, 8), "axes fraction", "offset points", size=9.5, color=colour, weight=weight)


def tidy(panel: Any, axes: Sequence[str] = ("left", "bottom")) -> None:
    """Takes off what need not be drawn: ticks, and all sides of the frame but these."""
    panel.tick_params(length=0, labelsize=9, labelcolor=MUTED)
    for side in ("top", "right", "left", "bottom"):
        panel.spines[side].set_visible(side in axes)
        panel.spines[side].set_color(RULE)


@contextmanager
def plain_text() -> Iterator[None]:
    """Text drawn inside is taken as it is: names may hold dollar signs, and letters that the font lacks."""
    plain = {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "edgekern"}  # and the same ids each time
    with matplotlib.rc_context(plain), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def save_png(figure: Any, path: Path) -> None:
    """Writes a figure as PNG, whatever the file is called.

    Raises:
        OSError: ``path`` cannot be written.
    """
    figure.savefig(path, format="png")


def svg_text(figure: Any) -> str:
    """A figure as an SVG document with nothing behind it, whose text is text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True)
    return text.getvalue()
