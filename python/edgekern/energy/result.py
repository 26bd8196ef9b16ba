"""What a meter found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EnergyReading:
    """One sensor's figures. Those that are None were not measured; ``problems`` say why."""

    source: str
    """The sensor's name, as "rapl" or "hwmon:ina226:power1"."""
    scope: str
    """What it is of: "package", "board", "rail", "battery", "memory" or "device"."""
    covers: str
    """The same in words."""
    joules: float | None
    watts: float | None
    """On average."""
    idle_watts: float | None
    """Before, while the machine was idle; None where that was not measured."""
    net_joules: float | None
    """Joules above what idling would have taken in the same time."""
    samples: int
    """Readings that succeeded."""
    problems: tuple[str, ...] = ()
    """Everything that went wrong, or that one should know of the figures."""


@dataclass(frozen=True)
class EnergyResult:
    """Energy over a span of time. ``joules`` and its like are those of the main reading, None where there is none."""

    seconds: float
    readings: tuple[EnergyReading, ...]
    main: str | None
    """The source of the main reading."""
    why_none: str
    """Why ``joules`` is None; empty when it is not."""
    unreadable: tuple[str, ...] = ()
    """Sensors that are there, but cannot be read or do not suit."""

    @property
    def reading(self) -> EnergyReading | None:
        """The main reading."""
        return next((reading for reading in self.readings if reading.source == self.main), None)

    @property
    def joules(self) -> float | None:
        return self.reading.joules if self.reading else None

    @property
    def watts(self) -> float | None:
        """On average."""
        return self.reading.watts if self.reading else None

    @property
    def idle_watts(self) -> float | None:
        return self.reading.idle_watts if self.reading else None

    @property
    def net_joules(self) -> float | None:
        """Above what idling would have taken."""
        return self.reading.net_joules if self.reading else None

    @property
    def source(self) -> str | None:
        """The sensor's name."""
        return self.reading.source if self.reading else None

    @property
    def scope(self) -> str | None:
        """What it is of."""
        return self.reading.scope if self.reading else None

    @property
    def problems(self) -> tuple[str, ...]:
        """Of all readings, and of sensors that cannot be read."""
        return (*(problem for reading in self.readings for problem in reading.problems), *self.unreadable)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready data."""
        main = {
            "joules": self.joules,
            "watts": self.watts,
            "idle_watts": self.idle_watts,
            "net_joules": self.net_joules,
        }
        readings = [{**dataclasses.asdict(each), "problems": list(each.problems)} for each in self.readings]
        return {
            "seconds": self.seconds,
            **main,
            "source": self.source,
            "scope": self.scope,
            "why_none": self.why_none or None,
            "readings": readings,
            "problems": list(self.problems),
        }

    def __str__(self) -> str:
        lines = [_line(reading, self.seconds) for reading in self.readings if reading.joules is not None]
        if self.why_none:
            lines.append(f"{self.seconds:.3g} s; {self.why_none}")
        lines += [f"  {problem}" for problem in self.problems if problem not in self.why_none]
        return "\n".join(lines)


def _line(reading: EnergyReading, seconds: float) -> str:
    idle = ""
    if reading.net_joules is not None:
        idle = f"; {reading.net_joules:.4g} J above idling at {reading.idle_watts:.3g} W"
    what = f"{reading.joules:.4g} J in {seconds:.3g} s, {reading.watts:.3g} W{idle}"
    return f"{what} ({reading.source}, {reading.scope}: {reading.covers})"
