"""What a bench's calls take in joules, where the machine has a sensor that is quick enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from edgekern.energy import EnergyMeter, EnergyResult

_LONGEST = 2.0  # seconds that a sensor may need for a figure: a bench has many to measure
_CALL_SECONDS = 1.0


@dataclass
class Span:
    """What happened inside a ``with`` block; known when it has ended."""

    seconds: float = 0.0
    joules: float | None = None


class Joules:
    """Measures the spans of a bench, and keeps the first sentence that says why one could not be.

    Args:
        meter: to measure with; the machine's own sensors, as far as they are quick enough, unless given.
    """

    def __init__(self, meter: EnergyMeter | None = None) -> None:
        self._meter = meter or EnergyMeter(within=_LONGEST)
        self.why_none = self._meter.why_none

    @contextmanager
    def span(self) -> Iterator[Span]:
        """Measures time, and around it energy."""
        span = Span()
        if self._meter.source is None:
            with _timed(span):
                yield span
            return
        self._meter.start()
        try:
            with _timed(span):
                yield span
        finally:
            result: EnergyResult = self._meter.stop()
        span.joules = result.joules
        self.why_none = self.why_none or result.why_none

    def of_call(self, call: Callable[[], object]) -> float | None:
        """Joules of one call, on average over calls for a second or as long as the sensor needs; None without one."""
        if self._meter.source is None:
            return None
        call()
        return self.of_calls(partial(_repeat, call))

    def of_calls(self, repeat: Callable[[float], int]) -> float | None:
        """As ``of_call``, of calls made by ``repeat(seconds)``, as in another process, which returns how many."""
        if self._meter.source is None:
            return None
        with self.span() as span:
            count = repeat(max(_CALL_SECONDS, self._meter.least_seconds))
        return None if span.joules is None else span.joules / count

    def to_dict(self) -> dict[str, Any]:
        """Of what the joules are, as JSON-ready data: source and scope, or why there are none."""
        return {"source": self._meter.source, "scope": self._meter.scope, "why_none": self.why_none or None}


@contextmanager
def measured(joules: Joules | None) -> Iterator[Span]:
    """A span, with joules if there is something to measure them with."""
    if joules is not None:
        with joules.span() as span:
            yield span
        return
    span = Span()
    with _timed(span):
        yield span


def _repeat(call: Callable[[], object], seconds: float) -> int:
    """Calls for so many seconds; returns how often."""
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        call()
        count += 1
    return count


@contextmanager
def _timed(span: Span) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        span.seconds = time.perf_counter() - start
