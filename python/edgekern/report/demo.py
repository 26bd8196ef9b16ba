"""The demo's result: its shape as JSON, and the one table that the terminal and the README both show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from rich.table import Table

from .energy import joules_text


class BatchTiming(TypedDict):
    """Both variants at one batch size, timed in alternating rounds: each an edgekern.bench.BenchResult, as a dict."""

    batch: int
    sequence: int
    fp32: dict[str, Any]
    int8: dict[str, Any]


class Pair(TypedDict):
    """One quantity for both variants of the model."""

    fp32: float
    int8: float


class DemoResult(TypedDict):
    """What `edgekern demo` measures; written as demo.json.

    size: bytes, of the converted layers ("linear") and of all parameters and buffers ("model").
    quality: correlation with human ratings, by name of the task.
    energy: of what the joules in "latency" are, or why there are none; not in files of before they were measured.
    """

    kind: str
    date: str
    quick: bool
    machine: dict[str, Any]
    model: str
    layers: int
    converted: int
    size: dict[str, Pair]
    quality: dict[str, Pair]
    latency: list[BatchTiming]
    energy: dict[str, Any]
    convert_seconds: float
    checkpoint_bytes: int
    reload_identical: bool
    failures: list[str]


def demo_rows(result: DemoResult) -> list[tuple[str, str, str, str]]:
    """(quantity, fp32, int8, change), formatted, in the order they are shown."""
    rows = []
    for key, label in (("linear", "Linear weights"), ("model", "Whole model")):
        size = result["size"][key]
        ratio = f"{size['fp32'] / size['int8']:.2f}x smaller"
        rows.append((label, f"{size['fp32'] / 1e6:.1f} MB", f"{size['int8'] / 1e6:.1f} MB", ratio))
    for timing in result["latency"]:
        label = f"Latency, batch {timing['batch']} x {timing['sequence']} tokens"
        for quantile in ("p50", "p95"):
            before, after = timing["fp32"][quantile], timing["int8"][quantile]
            speedup = f"{before / after:.2f}x faster" if after <= before else f"{after / before:.2f}x slower"
            rows.append((f"{label}, {quantile}", f"{before:.1f} ms", f"{after:.1f} ms", speedup))
        if "energy" in result:
            rows.append(_energy_row(timing))
    for task, score in result["quality"].items():
        rows.append((task, f"{score['fp32']:.4f}", f"{score['int8']:.4f}", f"{score['int8'] - score['fp32']:+.4f}"))
    return rows


def _energy_row(timing: BatchTiming) -> tuple[str, str, str, str]:
    before, after = timing["fp32"]["joules"], timing["int8"]["joules"]
    change = "-"
    if before is not None and after is not None:
        change = f"{before / after:.2f}x less" if after <= before else f"{after / before:.2f}x more"
    label = f"J/inference, batch {timing['batch']} x {timing['sequence']} tokens"
    return label, joules_text(before), joules_text(after), change


def measured_on(result: Mapping[str, Any]) -> str:
    """One line that says what the numbers of a demo's result were measured on."""
    machine = result["machine"]
    versions = machine["versions"]
    threads = f"{machine['threads']} thread" + ("s" if machine["threads"] != 1 else "")
    return f"{machine['cpu']}, {threads}, {machine['isa']} kernels, torch {versions['torch']}"


def demo_table(result: DemoResult) -> Table:
    """The result as a table for a terminal."""
    table = Table(title=f"{result['model']}: fp32 and int8", caption=measured_on(result))
    table.add_column("")
    for name in ("fp32", "int8", "change"):
        table.add_column(name, justify="right")
    for row in demo_rows(result):
        table.add_row(*row)
    return table


def demo_markdown(result: DemoResult) -> str:
    """The result as a Markdown table, with a line above it on what was measured where."""
    commit = result["machine"]["commit"]
    where = f"{result['model']} on {measured_on(result)}" + (f", commit {commit}" if commit else "") + "."
    lines = [where, "", "| | fp32 | int8 | change |", "| --- | ---: | ---: | ---: |"]
    lines += ["| " + " | ".join(row) + " |" for row in demo_rows(result)]
    return "\n".join(lines)
