"""The bar that the demos show while they work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Step:
    """Moves the progress bar: called with the text of the step that begins."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("Starting", total=total)
        self._started = False

    def __call__(self, text: str) -> None:
        self._progress.update(self._task, description=text, advance=1 if self._started else 0)
        self._started = True


@contextmanager
def progress(console: Console, total: int) -> Iterator[Step]:
    """Shows the bar of so many steps, and takes it away after the last."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield Step(bar, total)
