"""What the demos have in common: the bar they show while they work, a checkpoint, and how they end."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

import edgekern as ek

from ..report.energy import energy_note


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


def save_and_load(converted: nn.Module, fresh: nn.Module) -> int:
    """Saves a converted model and loads it into a fresh one; bytes on disk."""
    with tempfile.TemporaryDirectory() as folder:
        ek.save(converted, folder)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        ek.load(fresh, folder)
    return size


def write(result: Mapping[str, Any], explained: object, output: Path) -> None:
    """Writes demo.json and explain.txt into the folder `output`."""
    output.joinpath("demo.json").write_text(json.dumps(result, indent=2) + "\n")
    output.joinpath("explain.txt").write_text(f"{explained}\n")


def show(result: Mapping[str, Any], tables: Iterable[Table], console: Console) -> None:
    """Prints the tables of a result, of what its joules are, and what went wrong."""
    for table in tables:
        console.print(table)
    console.print(energy_note(result["energy"]), style="dim", highlight=False, markup=False)
    for failure in result["failures"]:
        console.print(f"[bold red]FAILED[/] {failure}")
