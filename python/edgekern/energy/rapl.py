"""RAPL: the energy counters of Intel's and AMD's CPUs, which Linux offers as powercap zones.

A zone ``intel-rapl:N`` is a package, or "psys", the whole platform; on AMD they bear the same name. ``intel-rapl:N:M``
is a part of a package (core, uncore), which its package counts already, or its memory (dram), which it does not.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgekern.energy.host import Host, SensorError
from edgekern.energy.sensor import Counter, CounterTrack, Found, Sensor

_FOLDER = "sys/class/powercap"
_LEAST_SECONDS = 0.1  # counters move each millisecond, so that both ends together are off by 1 % at most

# Zones of these kinds are summed, each kind for itself: name, scope, whether used unasked, what it covers.
_KINDS = {
    "package": ("rapl", "package", True, "CPU packages with their caches and graphics, without memory"),
    "psys": ("rapl-psys", "board", False, "the platform, as far as its maker has wired it to the counter"),
    "dram": ("rapl-dram", "memory", False, "memory modules"),
}


def find(host: Host) -> Found:
    """The counters that can be read."""
    counters: dict[str, list[Counter]] = {}
    zones = host.folders(f"{_FOLDER}/intel-rapl:*")
    for zone in zones:
        kind = (host.text(zone / "name") or "").split("-")[0]
        is_part = zone.name.count(":") > 1
        if kind in _KINDS and is_part == (kind == "dram"):
            counters.setdefault(kind, []).append(_counter(host, zone))
    if "package" not in counters:
        return Found(missing=(_why_none(host, bool(zones)),) if host.is_x86 or zones else ())
    sensors, unreadable = [], []
    for kind, found in counters.items():
        name, scope, automatic, covers = _KINDS[kind]
        track = partial(CounterTrack, tuple(found))
        try:
            track().check()
        except SensorError as error:
            unreadable.append(str(error))
            continue
        packages = f"{len(found)} " if len(found) > 1 else ""
        sensors.append(Sensor(name, scope, packages + covers, _LEAST_SECONDS, track, automatic))
    return Found(tuple(sensors), unreadable=tuple(unreadable))


def _counter(host: Host, zone: Path) -> Counter:
    most = host.text(zone / "max_energy_range_uj")
    access = f"{host.root / _FOLDER}/intel-rapl:*/energy_uj"  # one command for all of them
    return Counter(zone / "energy_uj", int(most) if most and most.isdigit() else None, access)


def _why_none(host: Host, has_zones: bool) -> str:
    folder = f"{host.root / _FOLDER}/intel-rapl:*"
    if has_zones:
        return f"none of {folder} is a package"
    if host.is_virtual:
        return f"there is no {folder}: this is a virtual machine, and the counters are its host's"
    return f"there is no {folder} (run: sudo modprobe intel_rapl_msr)"
