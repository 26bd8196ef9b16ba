"""The table behind ``convert_``, ``dense_`` and ``explain``: one row a layer, and the totals."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

DENSE = "dense"


@dataclass(frozen=True)
class LayerRow:
    """What one layer is, what it runs on, and, when it was left alone, why."""

    name: str
    """Fully qualified name, as in ``model.named_modules()``."""
    kind: str
    """``"Linear"``, ``"Conv2d"``, ..."""
    shape: tuple[int, ...]
    """Shape of the weight: (out_features, in_features) of a Linear, (out, in / groups, height, width) of a Conv2d."""
    format: str
    """``"int8"``, ``"int4"``, ``"f32"``, ``"f16"``, or ``"dense"`` for what PyTorch computes."""
    kernel: str
    """Kernels that may run it: many rows / few rows of input. Empty when PyTorch runs it."""
    isa: str
    """Instruction set of those kernels on this machine. Empty when PyTorch runs it."""
    bytes_before: int
    """Weight and bias before."""
    bytes_after: int
    """Weight, scales and bias after; the same as before when nothing changed."""
    reason: str
    """Why it was left alone; empty when it was converted."""
    packing: str = ""
    """How the weights of a native layer lie in memory, and, when that was measured, against what."""
    zeros: float = 0.0
    """Share of the weights that are zero, where that was looked at: in a native layer, or to decide about one."""
    timings: tuple[tuple[str, int, float], ...] = ()
    """What was measured to choose the packing, or to leave the layer alone: form, rows of a call, seconds."""
    activations: str = ""
    """How the inputs of a native linear layer are rounded: ``"dynamic"``, each row by its own range, or ``"static"``.
    Empty where they are not."""

    def to_dict(self) -> dict[str, Any]:
        """This row as JSON-ready data."""
        return {
            **dataclasses.asdict(self),
            "shape": list(self.shape),
            "timings": [list(timing) for timing in self.timings],
        }


@dataclass(frozen=True)
class Report:
    """Rows in the model's order. Prints as a table, in a notebook too."""

    rows: tuple[LayerRow, ...]

    @property
    def converted(self) -> tuple[LayerRow, ...]:
        """Rows of the layers that were converted."""
        return tuple(row for row in self.rows if not row.reason)

    @property
    def skipped(self) -> tuple[LayerRow, ...]:
        """Rows of the layers left alone, each with its reason."""
        return tuple(row for row in self.rows if row.reason)

    @property
    def bytes_before(self) -> int:
        """Bytes of all listed layers before."""
        return sum(row.bytes_before for row in self.rows)

    @property
    def bytes_after(self) -> int:
        """Bytes of all listed layers after."""
        return sum(row.bytes_after for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[LayerRow]:
        return iter(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals as JSON-ready data; sizes in bytes."""
        return {
            "layers": [row.to_dict() for row in self.rows],
            "converted": len(self.converted),
            "skipped": len(self.skipped),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
        }

    def __str__(self) -> str:
        return f"{text_table(_HEADER, map(_cells, self.rows))}\n{self.totals}"

    def _repr_html_(self) -> str:
        return f"{html_table(_HEADER, map(_cells, self.rows))}<p>{html.escape(self.totals)}</p>"

    @property
    def totals(self) -> str:
        """The line below the table: how many layers were converted, and the bytes of all before and after."""
        before, after = self.bytes_before, self.bytes_after
        ratio = f" ({before / after:.2f}x smaller)" if after < before else ""
        counts = f"{len(self)} layers: {len(self.converted)} converted, {len(self.skipped)} left alone"
        return f"{counts}; {size_text(before)} -> {size_text(after)}{ratio}"


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of left-aligned columns."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same as an HTML table."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


_HEADER = ("layer", "kind", "shape", "format", "kernel", "zeros", "packing", "before", "after", "left alone because")


def _cells(row: LayerRow) -> list[str]:
    shape = "x".join(map(str, row.shape))
    sizes = [size_text(row.bytes_before), size_text(row.bytes_after)]
    zeros = f"{row.zeros:.0%}" if row.kernel or row.zeros else ""
    kind = row.format if row.activations in ("", "dynamic") else f"{row.format}, {row.activations} activations"
    return [row.name, row.kind, shape, kind, row.kernel, zeros, row.packing, *sizes, row.reason]


def size_text(count: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
