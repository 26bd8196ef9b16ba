"""`edgekern energy`: what a command takes in joules, and which sensors there are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ..energy import EnergyMeter, EnergyResult, Sensor, find_sensors

_NOT_FOUND, _NOT_EXECUTABLE, _SIGNALLED = 127, 126, 128  # as shells have it


def run(command: Sequence[str], meter: EnergyMeter, as_json: bool) -> int:
    """Runs `command`, says what the machine took meanwhile, and returns the command's exit status.

    The table goes to stderr, since stdout is the command's; JSON is one line on stdout, the last.
    """
    meter.start()
    try:
        status = _run(command)
    finally:
        result = meter.stop()
    if as_json:
        print(json.dumps({"kind": "energy", "command": list(command), "exit_status": status, **result.to_dict()}))
    else:
        _show(result)
    return status


def _run(command: Sequence[str]) -> int:
    try:
        process = subprocess.Popen(command)
    except FileNotFoundError:
        print(f"edgekern: {command[0]}: command not found", file=sys.stderr)
        return _NOT_FOUND
    except PermissionError:
        print(f"edgekern: {command[0]}: permission denied", file=sys.stderr)
        return _NOT_EXECUTABLE
    while True:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            continue  # the command has got Ctrl-C too, and decides by itself when to end
        return status if status >= 0 else _SIGNALLED - status


def _show(result: EnergyResult) -> None:
    console = Console(stderr=True, highlight=False, markup=False)
    if any(reading.joules is not None for reading in result.readings):
        table = Table(box=None, pad_edge=False)
        for name in ("joules", "seconds", "watts", "above idle", "source", "scope", "covers"):
            table.add_column(name, justify="left" if name in ("source", "scope", "covers") else "right")
        for reading in result.readings:
            joules, watts, net = (
                "-" if value is None else f"{value:.4g}"
                for value in (reading.joules, reading.watts, reading.net_joules)
            )
            table.add_row(joules, f"{result.seconds:.4g}", watts, net, reading.source, reading.scope, reading.covers)
        console.print(table)
    else:
        console.print(f"{result.seconds:.4g} s", soft_wrap=True)
    for sentence in (result.why_none, *(each for each in result.problems if each not in result.why_none)):
        if sentence:
            console.print(sentence, soft_wrap=True)


def list_sensors(meter: EnergyMeter, as_json: bool) -> None:
    """Prints every sensor, which of them `meter` uses, and why others cannot be read."""
    found = find_sensors()
    if as_json:
        sensors = [_facts(sensor, sensor.name == meter.source) for sensor in found.sensors]
        others = {"unreadable": list(found.unreadable), "missing": list(found.missing)}
        print(json.dumps({"kind": "energy_sensors", "sensors": sensors, **others}, indent=2))
        return
    console = Console(highlight=False, markup=False)
    if found.sensors:
        table = Table(title="Sensors of energy", title_justify="left")
        for name in ("source", "scope", "covers", "shortest span", "used"):
            table.add_column(name)
        for sensor in found.sensors:
            used = "yes" if sensor.name == meter.source else ""
            table.add_row(sensor.name, sensor.scope, sensor.covers, f"{sensor.least_seconds:g} s", used)
        console.print(table)
    for sentence in (meter.why_none, *(each for each in found.unreadable if each not in meter.why_none)):
        if sentence:
            console.print(sentence, soft_wrap=True)


def _facts(sensor: Sensor, used: bool) -> dict[str, Any]:
    facts = {"source": sensor.name, "scope": sensor.scope, "covers": sensor.covers}
    return {**facts, "least_seconds": sensor.least_seconds, "used": used}
