"""The table behind ``quantize_``: one row a layer, and the configuration to convert by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekern.config import Int4, Int8, PerLayer
from edgekern.match import DEFAULT
from edgekern.table import Table


@dataclass(frozen=True)
class QuantizeRow:
    """What became of one layer's weights, and, when it was left alone, why.

    Errors are sums of squares over the layer's outputs on the calibration data, without bias, as a share of the sum of
    the outputs' own.
    """

    name: str
    """Fully qualified name, as in ``model.named_modules()``."""
    kind: str
    """``"Linear"`` or ``"Conv2d"``."""
    shape: tuple[int, ...]
    """Shape of the weight."""
    to: Int4 | Int8 | None
    """What to convert it to; None when left alone."""
    nearest: float
    """Error when each weight goes to the nearest value, as by converting alone, nothing scaled; 0 when left alone."""
    error: float
    """Error as it is now; 0 when left alone."""
    source: str
    """The module whose output channels were divided, where the layer's input channels were scaled; else empty."""
    note: str
    """What was asked for and could not be done; empty when all was."""
    reason: str
    """Why it was left alone; empty when it was quantised."""

    def to_dict(self) -> dict[str, Any]:
        """This row as JSON-ready data."""
        to = None if self.to is None else self.to.to_dict()
        return {**vars(self), "shape": list(self.shape), "to": to}


@dataclass(frozen=True)
class QuantizeReport(Table[QuantizeRow]):
    """Rows in the model's order. Prints as a table, in a notebook and with rich too."""

    _HEADER = ("layer", "kind", "shape", "to", "error, nearest", "error", "scaled against", "remarks")

    @property
    def quantized(self) -> tuple[QuantizeRow, ...]:
        """Rows of the layers that were quantised."""
        return tuple(row for row in self.rows if not row.reason)

    @property
    def skipped(self) -> tuple[QuantizeRow, ...]:
        """Rows of the layers left alone, each with its reason."""
        return tuple(row for row in self.rows if row.reason)

    @property
    def config(self) -> PerLayer:
        """What to call ``convert_`` with: each quantised layer to what it was rounded for, and no other layer.

        Raises:
            ValueError: no layer was quantised.
        """
        rules = {row.name or DEFAULT: row.to for row in self.quantized}
        if not rules:
            raise ValueError("config: no layer was quantised, so there is nothing to convert")
        return PerLayer(rules)

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals as JSON-ready data."""
        return {
            "layers": [row.to_dict() for row in self.rows],
            "quantized": len(self.quantized),
            "skipped": len(self.skipped),
        }

    def _cells(self) -> list[list[str]]:
        return [_cells(row) for row in self.rows]

    def _is_dim(self, index: int) -> bool:
        return bool(self.rows[index].reason)

    def _totals(self) -> str:
        counts = f"{len(self)} layers: {len(self.quantized)} quantised, {len(self.skipped)} left alone"
        nearest, error = (sum(getattr(row, name) for row in self.quantized) for name in ("nearest", "error"))
        return f"{counts}; their errors are {error / nearest:.0%} of rounding to nearest" if nearest else counts


def _cells(row: QuantizeRow) -> list[str]:
    errors = ["", ""] if row.reason else [f"{row.nearest:.2e}", f"{row.error:.2e}"]
    remarks = f"left alone: {row.reason}" if row.reason else row.note
    to = repr(row.to) if row.to else ""
    return [row.name, row.kind, "x".join(map(str, row.shape)), to, *errors, row.source, remarks]
