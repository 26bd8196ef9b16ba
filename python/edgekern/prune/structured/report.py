"""The table behind ``shrink_``: one row a group of units, and the totals."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekern.summary import html_table, size_text, text_table

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class ShrinkRow:
    """What became of one group of units, and, when it was left alone, why."""

    name: str
    """The first layer whose outputs they are, fully qualified."""
    layers: tuple[str, ...]
    """All of those layers: they can only lose the same units."""
    kind: str
    """``"channels"`` or ``"heads"``; of grouped-query attention, a head of keys and values with its queries."""
    method: str
    """As asked for; empty when left alone."""
    asked: float
    """Share to remove; of "global", everybody's; 0 when left alone."""
    before: int
    """Units before."""
    after: int
    """Units now."""
    reason: str
    """Why it was left alone; empty when it was shrunk."""

    @property
    def achieved(self) -> float:
        """Share of the units that is gone."""
        return 1 - self.after / self.before if self.before else 0.0

    def to_dict(self) -> dict[str, Any]:
        """This row as JSON-ready data."""
        return {**dataclasses.asdict(self), "layers": list(self.layers), "achieved": self.achieved}


@dataclass(frozen=True)
class Size:
    """How large a model is."""

    parameters: int
    nbytes: int
    """Of parameters and buffers."""
    macs: int
    """Multiplications in matrix products and convolutions, for the example inputs."""


@dataclass(frozen=True)
class ShrinkReport:
    """Rows in the model's order. Prints as a table, in a notebook and with rich too."""

    rows: tuple[ShrinkRow, ...]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Of every parameter and buffer that became smaller: its shape before and now."""
    before: Size
    after: Size
    config: str = ""
    """What became of a Hugging Face model's config; empty where there is none."""

    @property
    def shrunk(self) -> tuple[ShrinkRow, ...]:
        """Rows of the groups that lost units."""
        return tuple(row for row in self.rows if not row.reason)

    @property
    def skipped(self) -> tuple[ShrinkRow, ...]:
        """Rows of the groups left alone, each with its reason."""
        return tuple(row for row in self.rows if row.reason)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ShrinkRow]:
        return iter(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Rows, shapes and totals as JSON-ready data."""
        return {
            "groups": [row.to_dict() for row in self.rows],
            "shapes": {name: [list(before), list(after)] for name, (before, after) in self.shapes.items()},
            "before": dataclasses.asdict(self.before),
            "after": dataclasses.asdict(self.after),
            "config": self.config,
        }

    def __str__(self) -> str:
        return f"{text_table(_HEADER, map(_cells, self.rows))}\n{self._totals()}"

    def _repr_html_(self) -> str:
        return f"{html_table(_HEADER, map(_cells, self.rows))}<p>{html.escape(self._totals())}</p>"

    def __rich__(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table(*_HEADER, caption=self._totals())
        for row in self.rows:
            table.add_row(*map(Text, _cells(row)), style="dim" if row.reason else None)
        return table

    def _totals(self) -> str:
        before, after = self.before, self.after
        return (
            f"{len(self)} groups: {len(self.shrunk)} shrunk, {len(self.skipped)} left alone; "
            f"parameters {before.parameters:,} -> {after.parameters:,}, "
            f"{size_text(before.nbytes)} -> {size_text(after.nbytes)}, "
            f"multiplications {before.macs:,} -> {after.macs:,}{self.config and f'; {self.config}'}"
        )


_HEADER = ("outputs of", "kind", "method", "asked", "before", "after", "left alone because")


def _cells(row: ShrinkRow) -> list[str]:
    name = row.name if len(row.layers) == 1 else f"{row.name} and {len(row.layers) - 1} more"
    asked = "" if row.reason else f"{row.asked:.2%}"
    return [name, row.kind, row.method, asked, str(row.before), str(row.after), row.reason]
