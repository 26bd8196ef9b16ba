"""The table behind ``prune_``: one row a layer, and the totals."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from edgekern.table import Table


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
    pays_at: str
    """Rows of input at which the target that was asked for gains: "any M", "M >= 16" or "M <= 4"; empty without one."""
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
class PruneReport(Table[PruneRow]):
    """Rows in the model's order. Prints as a table, in a notebook and with rich too."""

    _HEADER = ("layer", "kind", "shape", "method", "pattern", "asked", "pays at", "zero", "left alone because")

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

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals as JSON-ready data."""
        return {
            "layers": [row.to_dict() for row in self.rows],
            "pruned": len(self.pruned),
            "skipped": len(self.skipped),
            "sparsity": self.sparsity,
        }

    def _cells(self) -> list[list[str]]:
        return [_cells(row) for row in self.rows]

    def _is_dim(self, index: int) -> bool:
        return bool(self.rows[index].reason)

    def _totals(self) -> str:
        counts = f"{len(self)} layers: {len(self.pruned)} pruned, {len(self.skipped)} left alone"
        return f"{counts}; {self.sparsity:.2%} of the pruned layers' weights are zero"


def _cells(row: PruneRow) -> list[str]:
    shape = "x".join(map(str, row.shape))
    asked = "" if row.reason else f"{row.asked:.2%}"
    return [row.name, row.kind, shape, row.method, row.pattern, asked, row.pays_at, f"{row.achieved:.2%}", row.reason]
