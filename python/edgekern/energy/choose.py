"""Which sensors there are, and which of them is meant."""

from __future__ import annotations

from dataclasses import dataclass

from edgekern.energy import battery, hwmon, pmic, rapl
from edgekern.energy.host import Host
from edgekern.energy.sensor import SCOPES, Found, Sensor

ALL = "all"


@dataclass(frozen=True)
class Choice:
    """What is measured by."""

    sensors: tuple[Sensor, ...]
    main: Sensor | None
    """The one whose figures are given where one is wanted."""
    why_none: str
    """A sentence where there is no main one."""
    problems: tuple[str, ...]
    """Sensors that are there, but cannot be read or do not suit."""


def find_sensors(host: Host | None = None) -> Found:
    """Every sensor of a machine that can be read now, and why others cannot."""
    host = host or Host()
    found = [kind.find(host) for kind in (rapl, hwmon, pmic, battery)]
    return Found(
        tuple(sensor for each in found for sensor in each.sensors),
        tuple(said for each in found for said in each.missing),
        tuple(said for each in found for said in each.unreadable),
    )


def check_wanted(sensor: object, scope: object) -> None:
    """ValueError or TypeError unless these can be looked for."""
    for name, value in (("sensor", sensor), ("scope", scope)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name}: expected a string or None, got {type(value).__name__}")
    if sensor is not None and scope is not None:
        raise ValueError(f"expected sensor or scope; got both, {sensor!r} and {scope!r}")
    if scope is not None and scope not in SCOPES:
        raise ValueError(f"scope: expected one of {', '.join(SCOPES)}; got {scope!r}")


def choose(found: Found, sensor: str | None, scope: str | None, within: float) -> Choice:
    """Those that are meant.

    Args:
        found: what there is.
        sensor: a name; "all"; or None for the one that is likeliest to hold what a program on the CPU takes.
        scope: in place of a name, one of SCOPES.
        within: seconds; sensors that need longer spans are left out.
    """
    quick = [each for each in found.sensors if each.least_seconds <= within]
    slow = [each for each in found.sensors if each.least_seconds > within]
    problems = (
        *found.unreadable,
        *(f"{each.name} changes too seldom: it needs {each.least_seconds:.0f} s" for each in slow),
    )
    if (sensor is None and scope is None) or sensor == ALL:
        main, why = _automatic(quick)
        chosen = quick if sensor == ALL else [main] if main else []
    else:
        chosen = [each for each in quick if each.name == sensor or each.scope == scope]
        main, why = (chosen[0], "") if len(chosen) == 1 else (None, _which(chosen))
        if not chosen:
            wanted = f"named {sensor!r}" if scope is None else f"of scope {scope!r}"
            others = ", ".join(each.name for each in quick)
            why = f"there is none {wanted}" + (f", but {others}" if others else "")
    if main is None:
        said = [*([why] if why else []), *problems, *found.missing]
        head = "none of several figures is the machine's" if chosen else "no energy was measured"
        why = f"{head}: {'; '.join(said)}"
    return Choice(tuple(chosen), main, why, problems)


def _automatic(sensors: list[Sensor]) -> tuple[Sensor | None, str]:
    """The likeliest one, or why there is none among those there are.

    CPU packages come first, then the board's input, a supply line if it is the only one, Raspberry Pi's chip, and the
    battery, which holds the screen too. Of several of a kind nobody knows which.
    """
    usable = [sensor for sensor in sensors if sensor.automatic]
    unclear = ""
    for kind in (
        [sensor for sensor in usable if sensor.scope == "package"],
        [sensor for sensor in usable if sensor.scope == "board" and sensor.name.startswith("hwmon:")],
        [sensor for sensor in usable if sensor.scope == "rail"],
        [sensor for sensor in usable if sensor.scope in ("board", "battery") and not sensor.name.startswith("hwmon:")],
    ):
        if len(kind) == 1 or (kind and not kind[0].name.startswith("hwmon:")):
            return kind[0], ""
        unclear = unclear or _which(kind)
    others = [sensor for sensor in sensors if not sensor.automatic]
    return None, unclear or (_which(others) if others else "")


def _which(sensors: list[Sensor]) -> str:
    names = ", ".join(sensor.name for sensor in sensors)
    return f"say by sensor= which is meant of {names}" if sensors else ""
