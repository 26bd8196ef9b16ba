"""``edgekern report``: one page, and a PNG file for each chart in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ...checkpoint.atomic import written_whole
from ...compress.record_file import read_record
from . import texts
from .facts import Point, Run
from .gallery import Gallery
from .sections import draw_frontiers
from .view import FrontierView, view_frontier, view_run

PAGE = "index.html"
_SHORT_HASH = 12


@dataclass(frozen=True)
class Written:
    """What was written."""

    page: Path
    charts: tuple[str, ...]
    """Names of the PNG files beside it."""


def write_report(folders: Sequence[Path], to: Path) -> Written:
    """Writes the report of a run, or one that compares several.

    The page is one file that needs no other, no script and no network.

    Args:
        folders: those that ``edgekern compress`` wrote to.
        to: the folder for ``index.html`` and the PNG files; made if it is not there. Files of the same names are
            written over, others left as they are.

    Raises:
        ValueError: no folder, one given twice, or one with a record or a log that cannot be read.
        FileNotFoundError: a folder without a record.
        OSError: something cannot be read or written.
    """
    runs = _runs(folders)
    to.mkdir(parents=True, exist_ok=True)
    gallery = Gallery(to)
    several = len(runs) > 1
    views = [view_run(run, gallery, [run.name] if several else []) for run in runs]
    together = _compared(runs, gallery) if several else ()
    page = _template().render(
        title=_title(runs),
        runs=views,
        together=together,
        machines_differ=len({view.measured_on for view in views}) > 1,
        style=Markup(_text("page.css")),
        several=several,
    )
    with written_whole(to / PAGE) as part:
        part.write_text(page, encoding="utf-8")
    return Written(to / PAGE, tuple(gallery.files))


def _runs(folders: Sequence[Path]) -> list[Run]:
    if not folders:
        raise ValueError("folders: expected at least one that edgekern compress wrote to, got none")
    known = [folder.resolve() for folder in folders]
    if len(set(known)) < len(known):
        raise ValueError(f"folders: expected each once, got {', '.join(map(str, folders))}")
    names = _told_apart(known)
    return [Run(name, folder, read_record(folder)) for name, folder in zip(names, folders, strict=True)]


def _told_apart(folders: Sequence[Path]) -> list[str]:
    """As many of each path's last parts as it takes for no two to be the same."""
    for count in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = [Path(*folder.parts[-count:]).as_posix() for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _compared(runs: Sequence[Run], gallery: Gallery) -> tuple[FrontierView, ...]:
    points: list[Point] = [point for run in runs for point in run.points]
    return tuple(view_frontier(frontier) for frontier in draw_frontiers(gallery, [], points))


def _title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return f"{texts.model_name(runs[0].record.model)}, {runs[0].record.recipe}"
    return f"{len(runs)} runs compared"


def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short_hash"] = lambda value: str(value)[:_SHORT_HASH]
    return environment.get_template("page.html")


def _shown(value: Any) -> Any:
    return texts.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
