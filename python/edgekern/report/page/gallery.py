"""Where charts go: each into a PNG file, and into the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ...checkpoint.atomic import written_whole
from ...figures import plain_text, save_png, svg_text
from .svg import inline_svg
from .texts import clean, slug


@dataclass(frozen=True)
class Chart:
    """A chart in the page."""

    file: str
    svg: Markup


class Gallery:
    """Writes charts into a folder.

    Args:
        folder: there already.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: list[str] = []

    def add(self, names: list[str], label: str, draw: Callable[[], Any]) -> Chart:
        """Draws a chart and writes its PNG file.

        Args:
            names: what the file is called by; a number is added where two would be the same.
            label: what a reader is told who does not see it.
            draw: gives the figure.

        Raises:
            OSError: the file cannot be written.
        """
        wanted = "-".join(map(slug, names))
        tries = (wanted, *(f"{wanted}-{i}" for i in range(2, len(self.files) + 3)))
        stem = next(each for each in tries if f"{each}.png" not in self.files)
        with plain_text():
            figure = draw()
            with written_whole(self._folder / f"{stem}.png") as part:
                save_png(figure, part)
            svg = inline_svg(svg_text(figure), stem, clean(label))
        self.files.append(f"{stem}.png")
        return Chart(f"{stem}.png", svg)
