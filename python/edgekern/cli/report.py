"""`edgekern report`: a page about what a compression run did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..report.page.write import write_report


def run(folders: Sequence[Path], output: Path | None) -> None:
    """Writes the page and its charts, and prints where.

    Raises:
        ValueError: several folders and no `output`, or what write_report refuses.
        FileNotFoundError: a folder without a record.
        OSError: something cannot be read or written.
    """
    if output is None and len(folders) > 1:
        raise ValueError("--output: expected a folder for the page that compares several runs, as --output compared")
    written = write_report(folders, output or folders[0] / "report")
    print(f"Written to {written.page.parent}: {', '.join((written.page.name, *written.charts))}")
