"""What a board says about itself: its model, how warm it is, and how fast its cores are clocked.

A small board slows down when it gets warm or when its supply is weak, so a time measured on one means little without
these. All of it comes from files that Linux offers on most boards; what is not there, or not readable, is None.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_ROOT = Path("/")


def board_model(root: Path = _ROOT) -> str | None:
    """The board's name from its device tree ("Raspberry Pi 5 Model B Rev 1.0"); None where there is no device tree."""
    return _text(root / "proc/device-tree/model")


def read_sensors(root: Path = _ROOT) -> dict[str, list[dict[str, Any]] | None]:
    """Temperatures and clock rates, now.

    Keys: temperatures (sensor, celsius) and clocks (cores, governor, mhz, max_mhz), one entry a sensor or group of
    cores. A list is None when there is no such sensor, and a value when its file is not readable.
    """
    zones = sorted(root.glob("sys/class/thermal/thermal_zone*"))
    policies = sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*"))
    temperatures = [{"sensor": _text(zone / "type"), "celsius": _thousandth(zone / "temp")} for zone in zones]
    clocks = [
        {
            "cores": _text(policy / "related_cpus"),
            "governor": _text(policy / "scaling_governor"),
            "mhz": _thousandth(policy / "scaling_cur_freq"),
            "max_mhz": _thousandth(policy / "cpuinfo_max_freq"),
        }
        for policy in policies
    ]
    return {"temperatures": temperatures or None, "clocks": clocks or None}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").rstrip("\0\n") or None
    except OSError:
        return None


def _thousandth(path: Path) -> float | None:
    """The number in a file that counts millidegrees or kilohertz."""
    text = _text(path)
    try:
        return int(text) / 1000 if text else None
    except ValueError:
        return None
