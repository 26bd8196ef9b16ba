"""The table behind ``prepare_qat_``: one row a layer, and the configuration to convert by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekern.config import Int4, Int8, PerLayer
from edgekern.match import DEFAULT
from edgekern.table import Table


@dataclass(frozen=True)
class QATRow:
    """What one layer trains for, and, when it was left alone, why."""

    name: str
    """Fully qualified name, as in ``model.named_modules()``."""
    kind: str
    """``"Linear"`` or ``"Conv2d"``."""
    shape: tuple[int, ...]
    """Shape of the weight."""
    to: Int4 | Int8 | None
    """What it trains for; None when left alone."""
    reason: str
    """Why it was left alone; empty when it was prepared."""

    def to_dict(self) -> dict[str, Any]:
        """This row as JSON-ready data."""
        return {**vars(self), "shape": list(self.shape), "to": None if self.to is None else self.to.to_dict()}


@dataclass(frozen=True)
class QATReport(Table[QATRow]):
    """Rows in the model's order. Prints as a table, in a notebook and with rich too."""

    _HEADER = ("layer", "kind", "shape", "trains for", "left alone because")

    @property
    def prepared(self) -> tuple[QATRow, ...]:
        """Rows of the layers that were prepared."""
        return tuple(row for row in self.rows if not row.reason)

    @property
    def skipped(self) -> tuple[QATRow, ...]:
        """Rows of the layers left alone, each with its reason."""
        return tuple(row for row in self.rows if row.reason)

    @property
    def config(self) -> PerLayer:
        """What to call ``convert_`` with to convert the layers that were prepared, and no other.

        Raises:
            ValueError: no layer was prepared.
        """
        rules = {row.name or DEFAULT: row.to for row in self.prepared}
        if not rules:
            raise ValueError("config: no layer was prepared, so there is nothing to convert")
        return PerLayer(rules)

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals as JSON-ready data."""
        return {
            "layers": [row.to_dict() for row in self.rows],
            "prepared": len(self.prepared),
            "skipped": len(self.skipped),
        }

    def _cells(self) -> list[list[str]]:
        return [
            [row.name, row.kind, "x".join(map(str, row.shape)), repr(row.to) if row.to else "", row.reason]
            for row in self.rows
        ]

    def _is_dim(self, index: int) -> bool:
        return bool(self.rows[index].reason)

    def _totals(self) -> str:
        return f"{len(self)} layers: {len(self.prepared)} prepared, {len(self.skipped)} left alone"
