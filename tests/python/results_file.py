"""A results file of the benchmarks, for the tests of what reads it."""

from __future__ import annotations

import json
from pathlib import Path

MACHINE = {
    "cpu": "Example(R) CPU 9000 @ 3.00GHz",
    "cpu_family_model": "6-99",
    "cores": 2,
    "last_level_cache_bytes": 32 << 20,
    "memory_bytes": 8 << 30,
    "system": "Linux 6 x86_64",
    "python": "3.11.0",
    "commit": "abc",
}


WATTS = 10.0
ENERGY = {"source": "rapl", "scope": "package", "why_none": None}
JOULES_NOTE = "J by rapl, package; of the whole machine, others' work included."


def with_joules(records: list[dict]) -> list[dict]:
    """The records of a machine that takes WATTS, measured by the sensor of ENERGY."""
    return [r | {"joules": WATTS * r["median_s"]} if r["kind"] == "timing" else r for r in records]


def write_file(folder: Path, records: list[dict], benchmark: str = "linear", **header: object) -> Path:
    full = {"kind": "header", "schema": 1, "benchmark": benchmark, **MACHINE, "date": "2026-01-02T00:00:00+00:00"}
    full |= {"tier": None, "isa": None, "rounds": 7, "round_seconds": 0.06} | header
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{benchmark}-{len(list(folder.glob('*')))}.jsonl"
    path.write_text("\n".join(map(json.dumps, [full, *records])) + "\n")
    return path
