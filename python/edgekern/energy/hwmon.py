"""hwmon: power monitors on a board (INA219, INA226, INA3221 and their like), supplies, energy counters of CPUs."""

from __future__ import annotations

import re
from collections import Counter as Counts
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edgekern.energy.host import Host, SensorError, read_number
from edgekern.energy.sensor import Counter, CounterTrack, Found, PowerTrack, Sensor, Track

_FOLDER = "sys/class/hwmon"
# Drivers of chips that measure what flows through a shunt in a supply line. Others (graphics cards, disks, network
# cards) measure themselves, and are not taken for the machine unless asked for.
_MONITORS = ("ina", "isl28022", "ltc294", "ltc2992", "ltc4151", "adm1", "lm25066", "pac19")
# Rails that are the board's input, by the labels that makers give them.
_INPUTS = re.compile(r"VDD_IN|VIN|VIN_SYS_5V0|POM_5V_IN|VDD_5V_IN|5V_IN", re.IGNORECASE)
# INA chips without an input of power have volts and amperes, in channels of one number. INA3221's numbers above 3 are
# the voltages of its shunts, and a sum.
_CHANNELS = {"ina3221": (1, 2, 3)}
_LEAST_SECONDS = 0.5  # a handful of readings
_INTERVALS = 20  # of a chip that averages for longer


@dataclass(frozen=True)
class _Input:
    """One quantity of a chip."""

    number: int
    what: str
    """As its files are called: "energy1", "power1", or "in1 x curr1"."""
    track: Callable[[], Track]


def find(host: Host) -> Found:
    """Every input of power or energy that can be read."""
    sensors: list[Sensor] = []
    unreadable: list[str] = []
    for chip in host.folders(f"{_FOLDER}/hwmon*"):
        driver = host.text(chip / "name") or chip.name
        for found in _sockets(host, chip) if driver == "amd_energy" else _inputs(chip, driver):
            try:
                found.track().check()
            except SensorError as error:
                unreadable.append(str(error))
                continue
            sensors.append(_sensor(host, chip, driver, found))
    missing = () if sensors or unreadable else (_why_none(host),)
    return Found(tuple(_with_unique_names(sensors)), missing, tuple(unreadable))


def _inputs(chip: Path, driver: str) -> Iterator[_Input]:
    """A counter is better than power, and power than volts and amperes, of one channel."""
    known: set[int] = set()
    for number, path in _files(chip, r"energy(\d+)_input"):
        known.add(number)
        yield _energy(number, [path])
    for kind in ("input", "average"):
        for number, path in _files(chip, rf"power(\d+)_{kind}"):
            if number not in known:
                known.add(number)
                yield _power(number, f"power{number}", str(path), _watts_of(path))
    if driver.startswith("ina"):
        for number in _CHANNELS.get(driver, (1,)):
            volts, amperes = chip / f"in{number}_input", chip / f"curr{number}_input"
            if number not in known and volts.exists() and amperes.exists() and not _is_off(chip, number):
                yield _power(number, f"in{number}", f"{volts} x {amperes.name}", _watts_of_both(volts, amperes))


def _sockets(host: Host, chip: Path) -> Iterator[_Input]:
    """amd_energy counts each core too, which the socket's counter holds already."""
    paths = [path for number, path in _files(chip, r"energy(\d+)_input") if _is_socket(host, chip, number)]
    if paths:
        yield _energy(1, paths)


def _is_socket(host: Host, chip: Path, number: int) -> bool:
    return (host.text(chip / f"energy{number}_label") or "").startswith("Esocket")


def _files(chip: Path, pattern: str) -> list[tuple[int, Path]]:
    names = ((re.fullmatch(pattern, path.name), path) for path in chip.glob("*[0-9]_*"))
    return sorted((int(found[1]), path) for found, path in names if found)


def _energy(number: int, paths: list[Path]) -> _Input:
    # Drivers extend their counters to 64 bits: nothing wraps.
    return _Input(number, f"energy{number}", partial(CounterTrack, tuple(Counter(path, None) for path in paths)))


def _power(number: int, what: str, files: str, watts: Callable[[], float]) -> _Input:
    return _Input(number, what, partial(PowerTrack, watts, files))


def _watts_of(path: Path) -> Callable[[], float]:
    return lambda: read_number(path) * 1e-6


def _watts_of_both(volts: Path, amperes: Path) -> Callable[[], float]:
    return lambda: read_number(volts) * read_number(amperes) * 1e-6  # millivolts, milliamperes


def _is_off(chip: Path, number: int) -> bool:
    try:
        return read_number(chip / f"in{number}_enable") == 0
    except SensorError:
        return False  # most chips have no such switch


def _sensor(host: Host, chip: Path, driver: str, found: _Input) -> Sensor:
    kinds = ("power", "energy", "in", "curr")
    labels = (host.text(chip / f"{kind}{found.number}_label") for kind in kinds)
    label = next((label for label in labels if label), None)
    scope, covers = _scope(driver, label)
    try:
        interval = read_number(chip / "update_interval") / 1000
    except SensorError:
        interval = 0.0
    name = "hwmon:amd_energy" if driver == "amd_energy" else f"hwmon:{driver}:{label or found.what}"
    least = max(_LEAST_SECONDS, _INTERVALS * interval)
    return Sensor(name, scope, f"{covers}, {chip}", least, found.track, automatic=scope != "device")


def _scope(driver: str, label: str | None) -> tuple[str, str]:
    if driver in ("amd_energy", "fam15h_power"):
        return "package", "CPU packages"
    if driver == "power_meter":
        return "board", "the machine, by its supply's meter (ACPI)"
    if driver.startswith(_MONITORS):
        if label and _INPUTS.fullmatch(label):
            return "board", f"the board's input {label}"
        return "rail", f"the supply line {label}" if label else "what is wired through its shunt"
    return "device", f"what {driver} measures"


def _with_unique_names(sensors: list[Sensor]) -> Iterator[Sensor]:
    counts = Counts(sensor.name for sensor in sensors)
    for sensor in sensors:
        again = counts[sensor.name] > 1
        yield replace(sensor, name=f"{sensor.name}@{sensor.covers.rpartition('/')[2]}") if again else sensor


def _why_none(host: Host) -> str:
    advice = ""
    if not host.is_x86:
        advice = (
            " (for an INA226 on a Raspberry Pi's I2C: dtparam=i2c_arm=on in /boot/firmware/config.txt, then run: "
            "echo ina226 0x40 | sudo tee /sys/bus/i2c/devices/i2c-1/new_device)"
        )
    return f"no chip in {host.root / _FOLDER} measures power{advice}"
