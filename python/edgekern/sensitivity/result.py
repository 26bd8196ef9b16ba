"""The table behind ``sensitivity``: one row for each layer and sparsity."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekern.config import Prune, scheme_from_dict
from edgekern.table import Table


@dataclass(frozen=True)
class SensitivityRow:
    """One layer, or group of layers, pruned alone."""

    name: str
    """Of the layer, or the rule that made the group."""
    layers: tuple[str, ...]
    """Names of the layers in it."""
    scheme: Prune
    """How it was pruned, with the sparsity that was asked for."""
    zeros: int
    """Weights that were zero then."""
    weights: int
    """All of its weights."""
    steps: int
    """In how many equal steps its sparsity can vary: its weights, blocks, or, for Wanda, those of one row."""
    quality: float
    """What the metric gave."""
    loss: float
    """How much worse that is than for the dense model."""
    float_ms: float | None = None
    """Median latency in floats; None when it was not measured."""
    int8_ms: float | None = None
    """In int8, not pruned."""
    pruned_ms: float | None = None
    """In int8, pruned."""

    @property
    def speedup(self) -> float | None:
        """How many times faster it is for its zeros, both in int8."""
        return self.int8_ms / self.pruned_ms if self.int8_ms and self.pruned_ms else None

    def to_dict(self) -> dict[str, Any]:
        """This row as JSON-ready data."""
        return {**dataclasses.asdict(self), "layers": list(self.layers), "scheme": self.scheme.to_dict()}


@dataclass(frozen=True)
class Sensitivity(Table):
    """Rows in the model's order, by rising sparsity. Prints as a table, in a notebook and with rich too."""

    rows: tuple[SensitivityRow, ...]
    metric: str
    """Its name."""
    baseline: float
    """What it gave for the dense model."""
    higher_is_better: bool
    threads: int
    """Torch's number of threads while latencies were measured."""
    left_alone: Mapping[str, str]
    """Layers that were not scanned, each with the reason."""

    _HEADER = (
        *("layer", "pattern", "method", "asked", "zero", "quality", "loss"),
        *("float ms", "int8 ms", "pruned ms", "faster", "left alone because"),
    )

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[SensitivityRow]:
        return iter(self.rows)

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

    def plot(self, path: str | Path) -> None:
        """Writes a PNG: loss against sparsity for each layer, and speed-up where latencies were measured.

        Raises:
            ImportError: matplotlib is not installed.
            OSError: ``path`` cannot be written.
        """
        try:
            from edgekern.sensitivity.chart import draw
        except ImportError as error:
            raise ImportError("plotting needs matplotlib; run: pip install 'edgekern[demo]'") from error
        draw(self, Path(path))

    def _cells(self) -> list[list[str]]:
        empty = [""] * (len(self._HEADER) - 2)
        return [*map(_cells, self.rows), *([name, *empty, reason] for name, reason in self.left_alone.items())]

    def _is_dim(self, index: int) -> bool:
        return index >= len(self.rows)

    def _totals(self) -> str:
        better = "higher" if self.higher_is_better else "lower"
        counts = f"{len(self.curves())} layers or groups scanned, {len(self.left_alone)} layers left alone"
        return f"{counts}; {self.metric} of the dense model: {self.baseline:.6g} ({better} is better)"


def _row_from_dict(data: Mapping[str, Any]) -> SensitivityRow:
    scheme = scheme_from_dict(data["scheme"])
    if not isinstance(scheme, Prune):
        raise ValueError(f"Sensitivity: a row is of format 'prune', got {scheme.format!r}")
    return SensitivityRow(**{**data, "layers": tuple(data["layers"]), "scheme": scheme})


def _cells(row: SensitivityRow) -> list[str]:
    times = ["" if ms is None else f"{ms:.4f}" for ms in (row.float_ms, row.int8_ms, row.pruned_ms)]
    speedup = "" if row.speedup is None else f"{row.speedup:.2f}x"
    zero = f"{row.zeros / row.weights:.2%}"
    head = [row.name, row.scheme.pattern, row.scheme.method, f"{row.scheme.share:.2%}", zero]
    return [*head, f"{row.quality:.6g}", f"{row.loss:.4g}", *times, speedup, ""]
