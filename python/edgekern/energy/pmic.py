"""The Raspberry Pi 5's power chip, which measures the current and voltage of each rail it makes.

Voltages without a current (the supply's 5 V, the clock's battery) are not rails. What goes past the chip is not
measured: USB, the 5 V pins, fans; nor are its own losses.
"""

from __future__ import annotations

import re

from edgekern.energy.host import Host, SensorError
from edgekern.energy.sensor import Found, PowerTrack, Sensor

COMMAND = ("vcgencmd", "pmic_read_adc")
_LINE = re.compile(r"^\s*(\w+)_([AV])\s+(?:current|volt)\(\d+\)=(-?[\d.]+)[AV]\s*$", re.MULTILINE)
_LEAST_SECONDS = 2.0  # each reading is a process, so there are few
_HAT = "an INA226 on its I2C measures it"


def rails(text: str) -> dict[str, float]:
    """Watts of each rail, out of what ``vcgencmd pmic_read_adc`` prints.

    Raises:
        SensorError: there is no pair of current and voltage in it.
    """
    found = {(rail, unit): float(value) for rail, unit, value in _LINE.findall(text)}
    pairs = [rail for rail, unit in found if unit == "A" and (rail, "V") in found]
    if not pairs:
        said = " ".join(text.split())[:80]
        raise SensorError(f"`{' '.join(COMMAND)}` names no rail with current and voltage, but says {said!r}")
    return {rail: found[rail, "A"] * found[rail, "V"] for rail in pairs}


def find(host: Host) -> Found:
    """The sum of all rails, where there is such a chip."""
    board = host.text("proc/device-tree/model") or ""
    if "Raspberry Pi" not in board:
        return Found()
    command = " ".join(COMMAND)
    try:
        count = len(rails(host.run(COMMAND)))
    except FileNotFoundError:
        return Found(missing=("there is no vcgencmd (run: sudo apt install raspi-utils)",))
    except SensorError as error:
        said = str(error)
        if "vcio" in said or "VCHI" in said or "ermission" in said:
            return Found(unreadable=(f"{said} (run: sudo usermod -aG video $USER, and log in again)",))
        if "not registered" in said:
            return Found(missing=(f"{board} cannot measure its power, as a Raspberry Pi 5 can: {_HAT}",))
        return Found(unreadable=(said,))
    covers = f"the sum of {count} rails that the PMIC makes, without its losses, USB and the 5 V pins"

    def watts() -> float:
        try:
            return sum(rails(host.run(COMMAND)).values())
        except OSError as error:
            raise SensorError(f"`{command}` cannot be run: {error.strerror}") from None

    return Found((Sensor("pi5-pmic", "board", covers, _LEAST_SECONDS, lambda: PowerTrack(watts, f"`{command}`")),))
