"""The table behind ``fuse_``: one row a layer, a norm or an activation, and the totals."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from edgekern.table import Table

LAYER, NORM, ACTIVATION = "layer", "norm", "activation"


@dataclass(frozen=True)
class FuseRow:
    """What became of one module."""

    name: str
    """Fully qualified name, as in ``model.named_modules()``."""
    role: str
    """``"layer"``, ``"norm"`` or ``"activation"``."""
    kind: str
    """Class of the module as it was."""
    found: str
    """How it was found who reads its result: ``"torch.fx"``, ``"torch.export"`` or ``"nn.Sequential"``; else empty."""
    norm: str
    """Of a layer: the module that was folded into its weights."""
    activation: str
    """Of a layer: what it applies now, as in ``edgekern.nn.FusedConv2d``; empty for none."""
    padding: str
    """Of a convolution that padded in a forward of its own: "same", or zeros (left, right, top, bottom)."""
    into: tuple[str, ...]
    """Of a norm or an activation: the layers that it is part of now."""
    reason: str
    """Why it was left alone; of a layer that has no activation now, why it has none."""

    @property
    def changed(self) -> bool:
        """Whether something was fused into it, or it into something, or its padding is known now."""
        return bool(self.norm or self.activation or self.padding or self.into)

    def to_dict(self) -> dict[str, Any]:
        """This row as JSON-ready data."""
        return {**dataclasses.asdict(self), "into": list(self.into)}


@dataclass(frozen=True)
class FuseReport(Table[FuseRow]):
    """Rows in the model's order. Prints as a table, in a notebook and with rich too."""

    difference: float | None
    """Largest difference of the model's results for ``example_inputs``, before and after, relative to the largest
    number in the result that it is in. None without them."""

    _HEADER = ("module", "kind", "norm", "activation", "padding", "is now in", "found by", "why not more")

    @property
    def fused(self) -> tuple[FuseRow, ...]:
        """Rows of the layers that something was fused into, or whose padding was found out."""
        return tuple(row for row in self.rows if row.role == LAYER and row.changed)

    @property
    def removed(self) -> tuple[FuseRow, ...]:
        """Rows of the norms and activations that are part of a layer now."""
        return tuple(row for row in self.rows if row.into)

    @property
    def skipped(self) -> tuple[FuseRow, ...]:
        """Rows of the modules left alone, each with its reason."""
        return tuple(row for row in self.rows if not row.changed)

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals as JSON-ready data."""
        return {
            "modules": [row.to_dict() for row in self.rows],
            "fused": len(self.fused),
            "removed": len(self.removed),
            "skipped": len(self.skipped),
            "difference": self.difference,
        }

    def _cells(self) -> list[list[str]]:
        return [
            [row.name, row.kind, row.norm, row.activation, row.padding, " ".join(row.into), row.found, row.reason]
            for row in self.rows
        ]

    def _is_dim(self, index: int) -> bool:
        return not self.rows[index].changed

    def _totals(self) -> str:
        counts = [f"{self._count(role, True)} of {self._count(role)} {role}s" for role in (LAYER, NORM, ACTIVATION)]
        text = f"fused: {counts[0]}, with {counts[1]} and {counts[2]}"
        return text if self.difference is None else f"{text}; results differ by {self.difference:.1e} at most"

    def _count(self, role: str, changed: bool = False) -> int:
        return sum(row.role == role and (row.changed or not changed) for row in self.rows)
