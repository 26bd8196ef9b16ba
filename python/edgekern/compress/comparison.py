"""The first and the last evaluation of a run, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgekern.compress.record import Measured, RunRecord
from edgekern.summary import size_text
from edgekern.table import Table


@dataclass(frozen=True)
class ComparisonRow:
    """One figure.

    Attributes:
        what: it is.
        before: of the model that the run began with, as it is shown.
        after: of the last one that was evaluated.
        change: between them, in words.
    """

    what: str
    before: str
    after: str
    change: str


@dataclass(frozen=True)
class Comparison(Table[ComparisonRow]):
    """Rows of figures. Prints as a table, in a notebook and with rich too."""

    seconds: float
    """Of all stages."""
    stages: int

    _HEADER = ("", "before", "after", "change")

    @classmethod
    def of(cls, record: RunRecord) -> Comparison:
        """That of a run; without rows where nothing was evaluated twice."""
        found = [stage.measured for stage in record.stages if stage.measured is not None]
        rows = tuple(_rows(found[0], found[-1])) if len(found) > 1 else ()
        return cls(rows, sum(stage.seconds for stage in record.stages), len(record.stages))

    def _cells(self) -> list[list[str]]:
        return [[row.what, row.before, row.after, row.change] for row in self.rows]

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        return list(self._HEADER), self._cells()

    def _totals(self) -> str:
        stages = f"{self.stages} stage{'s' * (self.stages != 1)} in {self.seconds:.1f} s"
        return stages if self.rows else f"{stages}; no two evaluations to compare"


def _rows(before: Measured, after: Measured) -> Iterator[ComparisonRow]:
    yield ComparisonRow(
        before.metric, f"{before.quality:.4g}", f"{after.quality:.4g}", f"{after.quality - before.quality:+.4g}"
    )
    for what, first, last in (
        ("on disk", before.bytes_on_disk, after.bytes_on_disk),
        ("in memory", before.bytes_in_memory, after.bytes_in_memory),
    ):
        yield ComparisonRow(what, size_text(first), size_text(last), _ratio(first, last, "smaller", "larger"))
    for unit, then, now, words in (
        ("ms", before.milliseconds, after.milliseconds, ("faster", "slower")),
        ("J", before.joules or {}, after.joules or {}, ("less", "more")),
    ):
        for threads in sorted(then.keys() & now.keys()):
            yield ComparisonRow(
                f"{unit} a call, {threads} thread{'s' * (threads != 1)}",
                f"{then[threads]:.4g}",
                f"{now[threads]:.4g}",
                _ratio(then[threads], now[threads], *words),
            )


def _ratio(before: float, after: float, less: str, more: str) -> str:
    """How much smaller or larger; empty where one is nothing."""
    if before <= 0 or after <= 0:
        return ""
    return f"{before / after:.2f}x {less}" if before >= after else f"{after / before:.2f}x {more}"
