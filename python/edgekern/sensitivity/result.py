"""The table behind ``sensitivity``: one row for each layer and scheme."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekern.config import Prune, Scheme, scheme_from_dict
from edgekern.table import PlottedTable


@dataclass(frozen=True)
class SensitivityRow:
    """One layer, or group of layers, changed alone.

    Bytes are those of weights, scales and biases, latencies medians of the layers called alone; both are sums over the
    layers of a group.
    """

    name: str
    """Of the layer, or the rule that made the group."""
    layers: tuple[str, ...]
    """Names of the layers in it."""
    scheme: Scheme
    """What it was changed by."""
    zeros: int
    """Weights that were zero then, before any rounding of others to zero."""
    weights: int
    """All of its weights."""
    steps: int
    """In how many equal steps its sparsity can vary: its weights, blocks, or, for Wanda, those of one row. 1 for
    schemes that do not prune."""
    quality: float
    """What the metric gave."""
    loss: float
    """How much worse that is than for the model as it is."""
    float_bytes: int
    """As it is."""
    kept_bytes: int = 0
    """Of those, the ones that other modules hold too, and that stay when it is converted."""
    runs_as: Scheme | None = None
    """What the layer is converted to: by the scheme, or, if that prunes, to see what the zeros bring. None when it was
    not converted."""
    nbytes: int | None = None
    """Converted."""
    unpruned_bytes: int | None = None
    """Converted likewise without having been pruned; for schemes that prune."""
    float_ms: float | None = None
    """As it is; None when it was not measured."""
    ms: float | None = None
    """Converted."""
    unpruned_ms: float | None = None
    """Converted without having been pruned; for schemes that prune."""

    @property
    def bits(self) -> float | None:
        """Bits a weight, scales and biases counted in, converted."""
        return None if self.nbytes is None else 8 * self.nbytes / self.weights

    @property
    def speedup(self) -> float | None:
        """How many times faster than in floats it is, converted."""
        return self.float_ms / self.ms if self.float_ms and self.ms else None

    @property
    def speedup_by_zeros(self) -> float | None:
        """How many times faster than without having been pruned, converted both times."""
        return self.unpruned_ms / self.ms if self.unpruned_ms and self.ms else None

    def to_dict(self) -> dict[str, Any]:
        """This row as JSON-ready data."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        runs_as = None if self.runs_as is None else self.runs_as.to_dict()
        return {**fields, "layers": list(self.layers), "scheme": self.scheme.to_dict(), "runs_as": runs_as}


@dataclass(frozen=True)
class Sensitivity(PlottedTable[SensitivityRow]):
    """Rows in the model's order, each layer's as the schemes were given. Prints as a table, with rich too.

    ``plot`` draws loss and, where it was measured, speed-up for each layer: over sparsity for schemes that prune, over
    bits a weight for those that convert or round; a scan of both has a line of panels for each.
    """

    metric: str
    """Its name."""
    baseline: float
    """What it gave for the model as it is."""
    higher_is_better: bool
    threads: int
    """Torch's number of threads while latencies were measured."""
    left_alone: Mapping[str, str]
    """Layers that were not scanned, each with the reason."""
    other_bytes: int = 0
    """Of the model's parameters and buffers: what is not in the layers scanned."""

    _HEADER = (
        *("layer", "scheme", "zero", "quality", "loss", "bits a weight", "timed as"),
        *("float ms", "unpruned ms", "ms", "faster than float", "faster by zeros", "left alone because"),
    )

    def curves(self) -> dict[str, list[SensitivityRow]]:
        """The rows of each layer or group."""
        found: dict[str, list[SensitivityRow]] = {}
        for row in self.rows:
            found.setdefault(row.name, []).append(row)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready data; ``from_dict`` is the inverse."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "rows": [row.to_dict() for row in self.rows], "left_alone": dict(self.left_alone)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sensitivity:
        """What ``to_dict`` gave, made whole again: scans take long, and may be kept in a file."""
        rows = tuple(_row_from_dict(row) for row in data["rows"])
        return cls(**{**data, "rows": rows})

    def _draw(self, path: Path) -> None:
        from edgekern.sensitivity.chart import draw

        draw(self, path)

    def _cells(self) -> list[list[str]]:
        empty = [""] * (len(self._HEADER) - 2)
        return [*map(_cells, self.rows), *([name, *empty, reason] for name, reason in self.left_alone.items())]

    def _is_dim(self, index: int) -> bool:
        return index >= len(self.rows)

    def _totals(self) -> str:
        better = "higher" if self.higher_is_better else "lower"
        counts = f"{len(self.curves())} layers or groups scanned, {len(self.left_alone)} layers left alone"
        return f"{counts}; {self.metric} of the model as it is: {self.baseline:.6g} ({better} is better)"


def _row_from_dict(data: Mapping[str, Any]) -> SensitivityRow:
    runs_as = data.get("runs_as")
    settled = {
        "layers": tuple(data["layers"]),
        "scheme": scheme_from_dict(data["scheme"]),
        "runs_as": None if runs_as is None else scheme_from_dict(runs_as),
    }
    return SensitivityRow(**{**data, **settled})


def _cells(row: SensitivityRow) -> list[str]:
    def shown(value: float | None, form: str, after: str = "") -> str:
        return "" if value is None else f"{value:{form}}{after}"

    timed_as = repr(row.runs_as) if row.ms is not None and isinstance(row.scheme, Prune) else ""
    return [
        row.name,
        repr(row.scheme),
        f"{row.zeros / row.weights:.2%}" if row.zeros else "",
        f"{row.quality:.6g}",
        f"{row.loss:.4g}",
        shown(row.bits, ".2f"),
        timed_as,
        shown(row.float_ms, ".4f"),
        shown(row.unpruned_ms, ".4f"),
        shown(row.ms, ".4f"),
        shown(row.speedup, ".2f", "x"),
        shown(row.speedup_by_zeros, ".2f", "x"),
        "",
    ]
