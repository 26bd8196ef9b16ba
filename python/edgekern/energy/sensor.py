"""What a sensor is, and how its readings become joules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekern.energy.host import SensorError, SpoiledError, read_number

SCOPES = ("package", "board", "rail", "battery", "memory", "device")
"""What a sensor's figures are of: CPU packages, everything behind the board's supply, one supply rail, what a battery
gives, memory modules, some other device."""


@dataclass(frozen=True)
class Sensor:
    """One thing that energy can be read of."""

    name: str
    """The source, as "rapl" or "hwmon:ina226:power1"."""
    scope: str
    """One of SCOPES."""
    covers: str
    """What its figures hold, and what they leave out."""
    least_seconds: float
    """Shorter spans are not measured: its figures change too seldom."""
    track: Callable[[], Track] = field(repr=False)
    """Begins a measurement."""
    automatic: bool = True
    """Whether it is used without having been asked for."""


@dataclass(frozen=True)
class Found:
    """Sensors that can be read, and why others cannot."""

    sensors: tuple[Sensor, ...] = ()
    missing: tuple[str, ...] = ()
    """Which files of a kind of sensor are not there, each with what helps."""
    unreadable: tuple[str, ...] = ()
    """Which are there, but cannot be read, each with what helps."""


class Track(ABC):
    """Adds up one sensor's readings from the first to the last ``sample``."""

    longest_gap: float
    """Seconds without a reading that are worth a word."""

    def __init__(self) -> None:
        self.joules = 0.0
        self.samples = 0
        self._failed = 0
        self._error = ""
        self._spoiled = ""
        self._first_failed = self._last_failed = False
        self._begin: float | None = None
        self._last: float | None = None
        self._gap = 0.0

    def sample(self, now: float) -> None:
        """Takes a reading, at a time in seconds."""
        try:
            self._take(now - self._last if self._last is not None else None)
        except SensorError as error:
            self._failed += 1
            self._error, self._last_failed = str(error), True
            self._first_failed |= not self.samples
            if isinstance(error, SpoiledError):
                self._spoiled = self._spoiled or str(error)
            return
        if self._last is None:
            self._begin = now
        else:
            self._gap = max(self._gap, now - self._last)
        self._last, self._last_failed = now, False
        self.samples += 1

    @abstractmethod
    def _take(self, seconds: float | None) -> None:
        """Reads, and adds the joules since the last reading, so many seconds ago; None for the first.

        Raises:
            SensorError: it could not be read; nothing was added.
        """

    @abstractmethod
    def check(self) -> None:
        """Reads once, for nothing but to see whether it can be.

        Raises:
            SensorError: it cannot.
        """

    @abstractmethod
    def _stuck(self) -> str:
        """Which figures were zero throughout, or did not move; empty when all was well."""

    def _remarks(self) -> list[str]:
        """What to know of a figure that is right nevertheless."""
        return []

    def problems(self, seconds: float) -> tuple[bool, tuple[str, ...]]:
        """Whether ``joules`` are those of the whole span of so many seconds, and everything that went wrong."""
        if self._spoiled:
            return False, (self._spoiled,)
        if self._begin is None or self._last is None:
            return False, (self._error,)
        if self._first_failed or self._last_failed:
            part = f"it was read for {self._last - self._begin:.1f} of {seconds:.1f} s, and counted {self.joules:.4g} J"
            return False, (f"{self._error}; {part}",)
        if stuck := self._stuck():
            return False, (stuck,)
        remarks = self._remarks()
        if self._failed:
            remarks.append(f"{self._failed} of {self._failed + self.samples} readings failed; the last: {self._error}")
        if self._gap > self.longest_gap:
            remarks.append(f"there was no reading for {self._gap:.0f} s")
        return True, tuple(remarks)


# No package takes as much. A counter that was reset looks like one that has wrapped, but after too many joules.
_MOST_WATTS = 10_000


@dataclass(frozen=True)
class Counter:
    """A file that counts energy up."""

    path: Path
    wraps_at: int | None
    """Microjoules after which it starts from 0 again, if it is known."""
    access: str | None = None
    """As for ``read_number``."""

    def read(self) -> int:
        """Microjoules."""
        return read_number(self.path, self.access)


class CounterTrack(Track):
    """Counters in microjoules, summed. Between two readings each may wrap once."""

    longest_gap = 60.0  # RAPL counts to 65 kJ or 262 kJ: a minute at a kilowatt

    def __init__(self, counters: Sequence[Counter]) -> None:
        super().__init__()
        self._counters = counters
        self._counts: list[int] = []
        self._moved = [False] * len(counters)

    def check(self) -> None:
        for counter in self._counters:
            counter.read()

    def _take(self, seconds: float | None) -> None:
        counts = [counter.read() for counter in self._counters]
        steps = [after - before for before, after in zip(self._counts, counts, strict=False)]
        for i, step in enumerate(steps):
            if step < 0:
                steps[i] += self._counters[i].wraps_at or 0
                if not 0 <= steps[i] * 1e-6 <= _MOST_WATTS * (seconds or 0.0):
                    went = f"{self._counters[i].path} went back from {self._counts[i]} to {counts[i]}"
                    raise SpoiledError(f"{went}, which no wrap-around explains: it was reset")
        for i, step in enumerate(steps):
            self._moved[i] |= step > 0
        self._counts = counts
        self.joules += sum(steps) * 1e-6

    def _stuck(self) -> str:
        still = [str(counter.path) for counter, moved in zip(self._counters, self._moved, strict=True) if not moved]
        return f"{' and '.join(still)} did not move from {', '.join(map(str, self._counts))}" if still else ""


class PowerTrack(Track):
    """Readings in watts, integrated over the times they were taken at by the trapezoid rule."""

    longest_gap = 10.0

    def __init__(self, watts: Callable[[], float], files: str) -> None:
        """``files`` names in messages what ``watts`` reads."""
        super().__init__()
        self._read, self._files = watts, files
        self._watts = 0.0
        self._zeros = 0

    def check(self) -> None:
        self._read()

    def _take(self, seconds: float | None) -> None:
        watts = self._read()
        if seconds is not None:
            self.joules += (self._watts + watts) / 2 * seconds
        self._zeros += watts == 0
        self._watts = watts

    def _stuck(self) -> str:
        if self._zeros == self.samples:
            return f"{self._files} read 0 W throughout"
        return "" if self.joules > 0 else f"{self._files} read less than 0 W: current flows the other way"

    def _remarks(self) -> list[str]:
        return [f"{self._files} read 0 W {self._zeros} of {self.samples} times"] if self._zeros else []


class LevelTrack(Track):
    """What is left in a store, times its voltage: what it falls by was taken out."""

    longest_gap = 60.0
    _STEPS = 50  # with fewer, the last one alone is more than 2 %

    def __init__(self, level: Callable[[], tuple[float, float]], files: str) -> None:
        """``level`` gives coulombs and volts, or joules and 1."""
        super().__init__()
        self._read, self._files = level, files
        self._level = (0.0, 0.0)
        self._steps = 0

    def check(self) -> None:
        self._read()

    def _take(self, seconds: float | None) -> None:
        level = self._read()
        if seconds is not None:
            fell = self._level[0] - level[0]
            self.joules += fell * (self._level[1] + level[1]) / 2
            self._steps += fell != 0
        self._level = level

    def _stuck(self) -> str:
        return "" if self.joules > 0 else f"{self._files} did not fall from {self._level[0]:.6g}"

    def _remarks(self) -> list[str]:
        few = 0 < self._steps < self._STEPS
        return [f"{self._files} fell in {self._steps} steps only: good to {1 / self._steps:.0%}"] if few else []
