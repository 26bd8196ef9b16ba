"""What the reports of pruning, quantising and measuring have in common: they print as tables."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from edgekern.summary import html_table, text_table

if TYPE_CHECKING:
    from rich.console import RenderableType

Row = TypeVar("Row")


@dataclass(frozen=True)
class Table(Generic[Row]):
    """Rows that print as a table with a line below it, in a notebook and with rich too.

    Columns that are empty throughout are not shown.
    """

    rows: tuple[Row, ...]

    _HEADER: ClassVar[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def _cells(self) -> list[list[str]]:
        """One list for each row, as long as the header."""
        raise NotImplementedError

    def _totals(self) -> str:
        """The line below."""
        raise NotImplementedError

    def _is_dim(self, index: int) -> bool:
        """Whether a row matters less than others."""
        return False

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        rows = self._cells()
        used = [i for i in range(len(self._HEADER)) if not rows or any(row[i] for row in rows)]
        return [self._HEADER[i] for i in used], [[row[i] for i in used] for row in rows]

    def __str__(self) -> str:
        return f"{text_table(*self._shown())}\n{self._totals()}"

    def _repr_html_(self) -> str:
        return f"{html_table(*self._shown())}<p>{html.escape(self._totals())}</p>"

    def __rich__(self) -> RenderableType:
        from rich.table import Table as RichTable
        from rich.text import Text

        header, rows = self._shown()
        table = RichTable(*header, caption=self._totals())
        for index, row in enumerate(rows):
            table.add_row(
                *map(Text, row), style="dim" if self._is_dim(index) else None
            )  # Text: names may hold brackets
        return table


class PlottedTable(Table[Row]):
    """One that can be drawn as well."""

    def plot(self, path: str | Path) -> None:
        """Writes a PNG of what the class says.

        Raises:
            ImportError: matplotlib is not installed.
            OSError: ``path`` cannot be written.
        """
        try:
            self._draw(Path(path))
        except ImportError as error:
            raise ImportError("plotting needs matplotlib; run: pip install 'edgekern[demo]'") from error

    def _draw(self, path: Path) -> None:
        """Writes it; here alone matplotlib is imported."""
        raise NotImplementedError
