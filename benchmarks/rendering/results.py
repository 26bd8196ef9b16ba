"""Reading results files back, cell by cell."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.machine import QUIET_SHARE, cpu_slug
from harness.table import SCHEMA, Record

OURS = "edgekern"
OURS_INT4 = "edgekern-int4"  # in the benchmark of that name, whose "edgekern" is int8
MODELS = ("minilm-", "lm-", "cnn-", "conv-")  # what subjects' names begin with that run no linear layer
FLOOR = "stub"  # the model with instant linear layers: no rival, nobody can have it


@dataclass(frozen=True)
class Cell:
    """One task at one thread count: everybody's record, by subject name."""

    task: Record
    threads: int
    timings: dict[str, Record]
    limits: dict[str, Record]
    ours: str = OURS

    @property
    def name(self) -> str:
        return self.task["name"]

    def seconds(self, subject: str) -> float | None:
        """Median seconds a call, None when the subject was not measured."""
        record = self.timings.get(subject)
        return record["median_s"] if record else None

    def joules(self, subject: str) -> float | None:
        """Of a call, or of a token where the task has tokens; None where it was not measured."""
        spent = self.timings.get(subject, {}).get("joules")  # older files do not have it
        return None if spent is None else spent / self.task.get("tokens", 1)

    def best_rival(self) -> tuple[str, float] | None:
        """The fastest of the others, and its median seconds."""
        rivals = [
            (record["median_s"], name)
            for name, record in self.timings.items()
            if name not in (self.ours, FLOOR) and not name.startswith(OURS)
        ]
        return min(rivals)[::-1] if rivals else None

    def ahead(self) -> float | None:
        """How many times faster than the best rival we are; below 1 when slower."""
        ours, best = self.seconds(self.ours), self.best_rival()
        return best[1] / ours if ours and best else None

    def limit_rate(self, limit: str) -> float | None:
        """What the machine does of a limit's work in a second; None when it was not measured."""
        record = self.limits.get(limit)
        return record["work"] / record["median_s"] if record else None

    def _share(self, limit: str, work: float) -> float | None:
        ours, rate = self.seconds(self.ours), self.limit_rate(limit)
        return work / ours / rate if ours and rate else None

    def peak_share(self) -> float | None:
        """Multiply-adds a second, over the machine's own from registers in the same rounds."""
        return self._share("peak-int8", self.task["m"] * self.task["k"] * self.task["n"])

    def bandwidth_share(self) -> float | None:
        """Bytes of packed weights a second, over the machine's own read bandwidth in the same rounds."""
        weights = self.task["k"] * self.task["n"]  # of int8, in files that do not say what was packed
        return self._share("read-bandwidth", self.timings.get(self.ours, {}).get("packed_bytes", weights))


@dataclass(frozen=True)
class Results:
    """One results file."""

    header: Record
    cells: tuple[Cell, ...]
    profiles: tuple[Record, ...]
    failures: tuple[Record, ...]
    versions: dict[str, str]

    @property
    def benchmark(self) -> str:
        return self.header["benchmark"]

    @property
    def slug(self) -> str:
        """Names the machine and what it was held to; newer results with the same slug take the place of older ones."""
        return "-".join(part for part in (cpu_slug(self.header), self.header["tier"], self.header["isa"]) if part)

    @property
    def title(self) -> str:
        """The CPU, and what it was held to."""
        held = [f"{self.header[key]} ({key} forced)" for key in ("tier", "isa") if self.header[key]]
        return ", ".join([_cpu_title(self.header), *held])

    def subjects(self) -> list[str]:
        """Everybody timed, in the file's order."""
        return list(dict.fromkeys(name for cell in self.cells for name in cell.timings))

    def disturbed(self) -> tuple[int, int]:
        """(cells measured while others used more than QUIET_SHARE of the machine, all cells)."""
        loads = [next(iter(cell.timings.values()))["foreign_load"] for cell in self.cells]
        return sum(load > QUIET_SHARE for load in loads), len(loads)

    def kernel(self) -> str:
        """The instruction set that edgekern ran, as it or its limits report it; "" when not recorded."""
        records = (r for cell in self.cells for r in (*cell.limits.values(), *cell.timings.values()))
        return next((r["isa"] for r in records if "isa" in r), "")


def _cpu_title(header: Record) -> str:
    name = " ".join(re.sub(r"\((R|TM)\)|\bCPU\b|@.*|\bProcessor\b", " ", header["cpu"]).split())
    family_model = header["cpu_family_model"]
    return f"{name} (family {family_model.replace('-', ', model ')})" if family_model else name


def read_results(path: Path) -> Results:
    """One file, as written by write_results. Raises ValueError when it is not one, or of another schema."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    if not records or records[0].get("kind") != "header":
        raise ValueError(f"{path}: expected a header on the first line")
    header = records[0]
    if header["schema"] != SCHEMA:
        raise ValueError(f"{path}: expected schema {SCHEMA}, got {header['schema']}; measure again")
    ours = OURS_INT4 if header["benchmark"] == "int4" else OURS
    cells: dict[tuple[str, int], Cell] = {}
    versions: dict[str, str] = {}
    for record in records[1:]:
        if record["kind"] == "versions":
            versions |= {key: value for key, value in record.items() if key not in ("kind", "subject", "threads")}
        elif record["kind"] in ("timing", "limit"):
            key = (record["name"], record["threads"])
            cell = cells.setdefault(key, Cell(record, record["threads"], {}, {}, ours))
            (cell.timings if record["kind"] == "timing" else cell.limits)[short_name(record["subject"])] = record
    return Results(
        header,
        tuple(cell for cell in cells.values() if cell.timings),
        tuple(record for record in records if record["kind"] == "profile"),
        tuple(record for record in records if record["kind"] == "failure"),
        versions,
    )


def short_name(subject: str) -> str:
    """The subject's name without the model it ran."""
    prefix = next((prefix for prefix in MODELS if subject.startswith(prefix)), "")
    return subject.removeprefix(prefix)


def newest(files: Iterable[Path]) -> list[Results]:
    """The newest results of each benchmark and machine, sorted by machine."""
    found: dict[tuple[str, str], Results] = {}
    for results in map(read_results, files):
        key = (results.benchmark, results.slug)
        if key not in found or results.header["date"] > found[key].header["date"]:
            found[key] = results
    return [found[key] for key in sorted(found)]


def profile_of(results: Results, subject: str, task: str, threads: int) -> dict[str, Any]:
    """Seconds a call by kind of work; empty when not profiled."""
    for record in results.profiles:
        if (short_name(record["subject"]), record["name"], record["threads"]) == (subject, task, threads):
            return record["seconds"]
    return {}
