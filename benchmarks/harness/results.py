"""Reading results files back, and what can be concluded from them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.machine import QUIET_SHARE, cpu_slug
from harness.table import SCHEMA, Record

OURS = "edgekern"


@dataclass(frozen=True)
class Cell:
    """One task at one thread count: everybody's record, by subject name."""

    task: Record
    threads: int
    timings: dict[str, Record]
    limits: dict[str, Record]

    @property
    def name(self) -> str:
        return self.task["name"]

    def seconds(self, subject: str) -> float | None:
        """Median seconds a call, None when the subject was not measured."""
        record = self.timings.get(subject)
        return record["median_s"] if record else None

    def best_rival(self) -> tuple[str, float] | None:
        """The fastest subject that is not ours, and its median seconds."""
        rivals = [(record["median_s"], name) for name, record in self.timings.items() if name != OURS]
        return min(rivals)[::-1] if rivals else None

    def ahead(self) -> float | None:
        """How many times faster than the best rival we are; below 1 when slower."""
        ours, best = self.seconds(OURS), self.best_rival()
        return best[1] / ours if ours and best else None

    def _share(self, limit: str, work: float) -> float | None:
        ours, record = self.seconds(OURS), self.limits.get(limit)
        return work / ours / (record["work"] / record["median_s"]) if ours and record else None

    def peak_share(self) -> float | None:
        """Multiply-adds a second, over the machine's own from registers in the same rounds."""
        return self._share("peak-int8", self.task["m"] * self.task["k"] * self.task["n"])

    def bandwidth_share(self) -> float | None:
        """Bytes of int8 weights a second, over the machine's own read bandwidth in the same rounds."""
        return self._share("read-bandwidth", self.task["k"] * self.task["n"])


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
        """The instruction set that edgekern ran, as its limits report it; "" when not recorded."""
        return next((r["isa"] for cell in self.cells for r in cell.limits.values() if "isa" in r), "")


def _cpu_title(header: Record) -> str:
    name = re.sub(r"\((R|TM)\)|\bCPU\b|\s+@.*|\s+Processor", "", header["cpu"]).strip()
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
    cells: dict[tuple[str, int], Cell] = {}
    versions: dict[str, str] = {}
    for record in records[1:]:
        if record["kind"] == "versions":
            versions |= {key: value for key, value in record.items() if key not in ("kind", "subject", "threads")}
        elif record["kind"] in ("timing", "limit"):
            key = (record["name"], record["threads"])
            cell = cells.setdefault(key, Cell(record, record["threads"], {}, {}))
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
    return subject.removeprefix("minilm-")


def newest(files: Iterable[Path]) -> list[Results]:
    """The newest results of each benchmark and machine, sorted by machine."""
    found: dict[tuple[str, str], Results] = {}
    for results in map(read_results, files):
        key = (results.benchmark, results.slug)
        if key not in found or results.header["date"] > found[key].header["date"]:
            found[key] = results
    return [found[key] for key in sorted(found)]


def geometric_mean(ratios: Sequence[float]) -> float:
    """Raises ValueError when there are none."""
    if not ratios:
        raise ValueError("geometric_mean: no ratios")
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


@dataclass(frozen=True)
class Bar:
    """A goal, what was measured, and whether that is enough. `met` is None when it was not measured."""

    goal: str
    measured: str
    met: bool | None


def _worst(goal: str, shares: list[tuple[float, Cell]], bar: float) -> Bar:
    if not shares:
        return Bar(goal, "not measured", None)
    share, cell = min(shares, key=lambda pair: pair[0])
    met = sum(value >= bar for value, _ in shares)
    where = f"lowest {share:.0%} at {cell.name}, {cell.threads} thread{'s' * (cell.threads > 1)}"
    return Bar(goal, f"{met} of {len(shares)} cells; {where}", share >= bar)


def _against(goal: str, cells: Iterable[Cell], rival: str, largest_ratio: float) -> Bar:
    """Our time over a rival's, at every thread count, must be at most `largest_ratio`."""
    parts, met = [], []
    for cell in cells:
        ours, theirs = cell.seconds(OURS), cell.seconds(rival)
        if ours and theirs:
            parts.append(f"{ours * 1e6:.1f} / {theirs * 1e6:.1f} µs at {cell.threads}")
            met.append(ours <= largest_ratio * theirs)
    return Bar(goal, ", ".join(parts) + " threads" if parts else "not measured", all(met) if met else None)


def tabled(cells: Iterable[Cell]) -> list[Cell]:
    """The cells of the shape table: all but the smallest layer, which only shows what a call costs."""
    return [cell for cell in cells if cell.name != "1x64x64"]


def linear_bars(results: Results) -> list[Bar]:
    """The goals for one linear layer, against this file."""
    table = tabled(results.cells)
    wide = [cell for cell in table if cell.task["m"] >= 64 and cell.task["k"] >= 768]
    cold = [cell for cell in table if cell.task["cold"]]
    peaks = [(share, cell) for cell in wide if (share := cell.peak_share()) is not None]
    reads = [(share, cell) for cell in cold if (share := cell.bandwidth_share()) is not None]
    ahead = [(ratio, cell) for cell in table if (ratio := cell.ahead()) is not None]
    warm = [cell for cell in table if cell.name == "1x2048x8192"]
    smallest = [cell for cell in results.cells if cell.name == "1x64x64"]
    mean = geometric_mean([ratio for ratio, _ in ahead]) if ahead else None
    return [
        _worst("M ≥ 64, K ≥ 768: at least 85 % of the measured int8 peak", peaks, 0.85),
        _worst("M = 1, weights in memory: at least 90 % of the measured read bandwidth", reads, 0.9),
        _against("M = 1, 2048x8192 in cache: faster than quantize_dynamic (x86)", warm, "torch-int8-x86", 1.0),
        _worst("Every cell at least as fast as its best rival", ahead, 1.0),
        Bar(
            "Geometric mean at least 1.2 times ahead of the best rival per cell",
            f"{mean:.2f} times" if mean else "not measured",
            mean >= 1.2 if mean else None,
        ),
        _against("A 64x64 layer at M = 1: at most 1.3 times nn.Linear", smallest, "torch-fp32", 1.3),
    ]


# (batch, at least so many times faster than quantize_dynamic, than float32), on two threads
MODEL_GOALS = ((1, 1.1, 3.2), (32, 1.35, 3.4))


def model_bars(results: Results) -> list[Bar]:
    """The goals for MiniLM, against this file."""
    bars = []
    for batch, *goals in MODEL_GOALS:
        cell = next((c for c in results.cells if c.task["batch"] == batch and c.threads == 2), None)
        for rival, title, goal in zip(("torch-int8-x86", "torch-fp32"), ("quantize_dynamic", "float32"), goals, strict=True):
            ours, theirs = (cell.seconds(OURS), cell.seconds(rival)) if cell else (None, None)
            ratio = theirs / ours if ours and theirs else None
            bars.append(
                Bar(
                    f"Batch {batch}, 2 threads: at least {goal} times faster than {title}",
                    f"{ratio:.2f} times" if ratio else "not measured",
                    ratio >= goal if ratio else None,
                )
            )
    return bars


def profile_of(results: Results, subject: str, task: str, threads: int) -> dict[str, Any]:
    """Seconds a call by kind of work; empty when not profiled."""
    for record in results.profiles:
        if (short_name(record["subject"]), record["name"], record["threads"]) == (subject, task, threads):
            return record["seconds"]
    return {}
