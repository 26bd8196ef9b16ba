"""The table behind ``power_plan``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekern.table import Table


@dataclass(frozen=True)
class PowerPoint:
    """One way to run a model."""

    format: str
    """"float", the name of a scheme, or the scheme as it is written."""
    threads: int
    governor: str | None
    """None where the machine's own was left in force."""
    ms: float
    """Of one call, the median."""
    joules: float | None
    """Of one call, on average; None where it was not measured."""
    watts: float | None
    """Of the machine meanwhile."""
    calls: int
    """How many were measured."""

    @property
    def name(self) -> str:
        """What tells it from other points."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return ", ".join(filter(None, (self.format, threads, self.governor)))


@dataclass(frozen=True)
class PowerPlan(Table):
    """Points in the order they were measured. Prints as a table, with rich too."""

    rows: tuple[PowerPoint, ...]
    target: str
    """The instruction set that ran."""
    source: str | None
    """The sensor's name."""
    scope: str | None
    """What its joules are of."""
    why_none: str
    """Why there are no joules; empty when there are."""
    left_out: Mapping[str, str]
    """Formats, or "governors", that were not tried, each with the reason."""

    _HEADER = ("format", "threads", "governor", "ms", "J/inference", "W", "")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[PowerPoint]:
        return iter(self.rows)

    @property
    def fastest(self) -> PowerPoint:
        """The point with the shortest calls."""
        return min(self.rows, key=lambda point: point.ms)

    @property
    def least_energy(self) -> PowerPoint | None:
        """The point with the fewest joules a call; None where none were measured."""
        known = [(point.joules, i) for i, point in enumerate(self.rows) if point.joules is not None]
        return self.rows[min(known)[1]] if known else None

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready data."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        best = self.least_energy
        return {
            **fields,
            "rows": [dataclasses.asdict(point) for point in self.rows],
            "why_none": self.why_none or None,
            "left_out": dict(self.left_out),
            "fastest": dataclasses.asdict(self.fastest),
            "least_energy": dataclasses.asdict(best) if best else None,
        }

    def plot(self, path: str | Path) -> None:
        """Writes a PNG: joules over milliseconds a call, or milliseconds alone where there are no joules.

        Raises:
            ImportError: matplotlib is not installed.
            OSError: ``path`` cannot be written.
        """
        try:
            from edgekern.energy.chart import draw
        except ImportError as error:
            raise ImportError("plotting needs matplotlib; run: pip install 'edgekern[demo]'") from error
        draw(self, Path(path))

    def _cells(self) -> list[list[str]]:
        return [self._line(point) for point in self.rows]

    def _line(self, point: PowerPoint) -> list[str]:
        best = (("fastest", self.fastest), ("least energy", self.least_energy))
        joules = "-" if point.joules is None else f"{point.joules:.3g}"
        watts = "-" if point.watts is None else f"{point.watts:.3g}"
        marks = ", ".join(mark for mark, marked in best if point is marked)
        return [point.format, str(point.threads), point.governor or "", f"{point.ms:.3f}", joules, watts, marks]

    def _totals(self) -> str:
        best = self.least_energy
        said = [f"{len(self)} points on {self.target}; fastest: {self.fastest.name}, {self.fastest.ms:.3f} ms"]
        if best is not None:
            said.append(f"least energy: {best.name}, {best.joules:.3g} J by {self.source} ({self.scope})")
        said += [self.why_none] if self.why_none else []
        said += [f"left out: {name}: {why}" for name, why in self.left_out.items()]
        return "\n".join(said)
