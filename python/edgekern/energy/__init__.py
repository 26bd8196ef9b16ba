"""Measuring energy, by sensors the machine has. Needs no torch, but for ``edgekern.energy.plan``."""

from __future__ import annotations

from edgekern.energy.choose import find_sensors
from edgekern.energy.host import Host
from edgekern.energy.meter import EnergyMeter
from edgekern.energy.result import EnergyReading, EnergyResult
from edgekern.energy.sensor import SCOPES, Found, Sensor

__all__ = ["SCOPES", "EnergyMeter", "EnergyReading", "EnergyResult", "Found", "Host", "Sensor", "find_sensors"]
