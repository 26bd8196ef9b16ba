"""Batteries: what they give, while nothing charges them.

All of the folders in power_supply whose type is Battery are the machine's, but for those whose scope is Device (mice,
headsets).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from edgekern.energy.host import Host, SensorError, SpoiledError, read_number
from edgekern.energy.sensor import Found, LevelTrack, PowerTrack, Sensor, Track

_FOLDER = "sys/class/power_supply"
_POWER_SECONDS, _LEVEL_SECONDS = 30.0, 120.0  # gauges look every few seconds, and levels fall in coarse steps
_MICRO, _HOUR = 1e-6, 3600.0

_T = TypeVar("_T")


def find(host: Host) -> Found:
    """The battery, or the sum of several, if there is one and it is discharging now."""
    folders = host.folders(f"{_FOLDER}/*")
    cells = [
        path for path in folders if host.text(path / "type") == "Battery" and host.text(path / "scope") != "Device"
    ]
    if not cells:
        return Found(missing=(f"there is no battery in {host.root / _FOLDER}",))
    names = " and ".join(str(cell) for cell in cells)
    unreadable = []
    for seconds, track in _tracks(host, cells, names):
        try:
            track().check()
        except SensorError as error:
            unreadable.append(str(error))
            continue
        covers = f"what {', '.join(cell.name for cell in cells)} gives: all of the machine"
        return Found((Sensor("battery", "battery", covers, seconds, track),))
    return Found(unreadable=tuple(unreadable[:1]) or (f"{names} tells neither its power nor what is left in it",))


def _tracks(host: Host, cells: Sequence[Path], names: str) -> list[tuple[float, Callable[[], Track]]]:
    """Ways to measure them, the better one first, each with the shortest span it is good for."""
    found: list[tuple[float, Callable[[], Track]]] = []
    powers = [power for power in map(_power, cells) if power is not None]
    if len(powers) == len(cells):
        watts = _discharging(host, cells, lambda: sum(power() for power in powers))
        found.append((_POWER_SECONDS, lambda: PowerTrack(watts, names)))
    level = _level(cells[0]) if len(cells) == 1 else None
    if level is not None:
        left = _discharging(host, cells, level)
        found.append((_LEVEL_SECONDS, lambda: LevelTrack(left, names)))
    return found


def _power(cell: Path) -> Callable[[], float] | None:
    """Watts. Their sign is not the same in all drivers; that it discharges is known from its status."""
    power, current, voltage = (cell / f"{name}_now" for name in ("power", "current", "voltage"))
    if power.exists():
        return lambda: abs(read_number(power)) * _MICRO
    if current.exists() and voltage.exists():
        return lambda: abs(read_number(current)) * _MICRO * read_number(voltage) * _MICRO
    return None


def _level(cell: Path) -> Callable[[], tuple[float, float]] | None:
    """Joules and 1, or coulombs and volts."""
    energy, charge, voltage = (cell / f"{name}_now" for name in ("energy", "charge", "voltage"))
    if energy.exists():
        return lambda: (read_number(energy) * _MICRO * _HOUR, 1.0)
    if charge.exists() and voltage.exists():
        return lambda: (read_number(charge) * _MICRO * _HOUR, read_number(voltage) * _MICRO)
    return None


def _discharging(host: Host, cells: Sequence[Path], read: Callable[[], _T]) -> Callable[[], _T]:
    """``read``, or an error when a battery is charged, or none is used."""

    def checked() -> _T:
        states = {str(cell / "status"): host.text(cell / "status") for cell in cells}
        for path, state in states.items():
            if state is None:
                raise SensorError(f"{path} is gone")
        if "Discharging" not in states.values() or "Charging" in states.values():
            said = " and ".join(f"{path} says {state}" for path, state in states.items())
            raise SpoiledError(f"{said}: a battery tells what the machine takes only while Discharging; pull the plug")
        return read()

    return checked
