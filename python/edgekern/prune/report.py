"""The table behind ``prune_``: one row a layer, and the totals."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekern.summary import html_table, text_table

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class PruneRow:
    """What became of one layer's weights, and, when it was left alone, why."""

    name: str
    """Fully qualified name, as in ``model.named_modules()``."""
    kind: str
    """``"Linear"`` or ``"Conv2d"``."""
    shape: tuple[int, ...]
    """Shape of the weight."""
    method: str
    """As asked for; empty when left alone."""
    pattern: str
    """As asked for; empty when left alone."""
    asked: float
    """Share to remove: the layer's own under the scope "owl", everybody's under "global"; 0 when left alone."""
    zeros: int
    """Weights that are zero now."""
    weights: int
    """All of its weights."""
    reason: str
    """Why it was left alone; empty when it was pruned."""

    @property
    def achieved(self) -> float:
        """Share of the weights that is zero now."""
        return self.zeros / self.weights if self.weights else 0.0

    def to_dict(self) -> dict[str, Any]:
        """This row as JSON-ready data."""
        return {**dataclasses.asdict(self), "shape": list(self.shape), "achieved": self.achieved}


@dataclass(frozen=True)
class PruneReport:
    """Rows in the model's order. Prints as a table, in a notebook and with rich too."""

    rows: tuple[PruneRow, ...]

    @property
    def pruned(self) -> tuple[PruneRow, ...]:
        """Rows of the layers that were pruned."""
        return tuple(row for row in self.rows if not row.reason)

    @property
    def skipped(self) -> tuple[PruneRow, ...]:
        """Rows of the layers left alone, each with its reason."""
        return tuple(row for row in self.rows if row.reason)

    @property
    def sparsity(self) -> float:
        """Share of zeros among all weights of the pruned layers; 0 when there are none."""
        weights = sum(row.weights for row in self.pruned)
        return sum(row.zeros for row in self.pruned) / weights if weights else 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[PruneRow]:
        return iter(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals as JSON-ready data."""
        return {
            "layers": [row.to_dict() for row in self.rows],
            "pruned": len(self.pruned),
            "skipped": len(self.skipped),
            "sparsity": self.sparsity,
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
            table.add_row(*map(Text, _cells(row)), style="dim" if row.reason else None)  # Text: names may hold brackets
        return table

    def _totals(self) -> str:
        counts = f"{len(self)} layers: {len(self.pruned)} pruned, {len(self.skipped)} left alone"
        return f"{counts}; {self.sparsity:.2%} of the pruned layers' weights are zero"


_HEADER = ("layer", "kind", "shape", "method", "pattern", "asked", "zero", "left alone because")


def _cells(row: PruneRow) -> list[str]:
    shape = "x".join(map(str, row.shape))
    asked = "" if row.reason else f"{row.asked:.2%}"
    return [row.name, row.kind, shape, row.method, row.pattern, asked, f"{row.achieved:.2%}", row.reason]
