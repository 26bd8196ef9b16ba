"""The image demo's result: its shape as JSON, and its tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from rich.table import Table

from .demo import measured_on
from .energy import joules_text

MODELS = {"fp32": "fp32", "int8": "int8", "frozen": "int8, frozen"}
"""What is compared, and how it is called."""


class Timing(TypedDict):
    """All models at one batch size, timed in alternating rounds: each an edgekern.bench.BenchResult, as a dict."""

    batch: int
    models: dict[str, dict[str, Any]]


class Guess(TypedDict):
    """A photograph's likeliest classes, with how likely they are, by model."""

    file: str
    label: int
    top5: dict[str, list[tuple[int, float]]]


class ImageDemoResult(TypedDict):
    """What `edgekern demo --model efficientnet` measures; written as demo.json.

    converted, linked, frozen: how many layers are int8, hand on uint8, and run in a region.
    size: bytes of the converted layers.
    right, same: photographs of which the likeliest class is their label, and is float32's; by model.
    """

    kind: str
    date: str
    quick: bool
    machine: dict[str, Any]
    model: str
    layers: int
    converted: int
    linked: int
    frozen: int
    size: dict[str, int]
    photographs: int
    right: dict[str, int]
    same: dict[str, int]
    guesses: Guess
    latency: list[Timing]
    energy: dict[str, Any]
    convert_seconds: float
    checkpoint_bytes: int
    reload_identical: bool
    failures: Sequence[str]


def image_demo_rows(result: ImageDemoResult) -> list[tuple[str, ...]]:
    """(quantity, fp32, int8, frozen), formatted, in the order they are shown."""
    size, count = result["size"], result["photographs"]
    int8 = f"{size['int8'] / 1e6:.1f} MB"
    rows: list[tuple[str, ...]] = [("Converted layers", f"{size['fp32'] / 1e6:.1f} MB", int8, int8)]
    for timing in result["latency"]:
        before = timing["models"]["fp32"]
        for quantile in ("p50", "p95"):
            cells = [_latency(each[quantile], before[quantile]) for each in timing["models"].values()]
            rows.append((f"Latency, batch {timing['batch']}, {quantile}", *cells))
        joules = [joules_text(each["joules"]) for each in timing["models"].values()]
        rows.append((f"J/inference, batch {timing['batch']}", *joules))
    rows.append(("Recognised", *(f"{result['right'][name]} of {count}" for name in MODELS)))
    rows.append(("As float32", *(f"{result['same'][name]} of {count}" for name in MODELS)))
    return rows


def _latency(value: float, before: float) -> str:
    if value == before:
        return f"{value:.1f} ms"
    change = f"{before / value:.2f}x faster" if value < before else f"{value / before:.2f}x slower"
    return f"{value:.1f} ms, {change}"


def image_demo_table(result: ImageDemoResult) -> Table:
    """What is gained and lost, as a table for a terminal."""
    table = Table(title=f"{result['model']}: fp32 and int8", caption=measured_on(result))
    table.add_column("")
    for name in MODELS.values():
        table.add_column(name, justify="right")
    for row in image_demo_rows(result):
        table.add_row(*row)
    layers, converted, linked = result["layers"], result["converted"], result["linked"]
    table.add_row("Layers", str(layers), f"{converted} int8, {linked} give uint8", f"{result['frozen']} in one call")
    return table


def guess_table(result: ImageDemoResult) -> Table:
    """The five likeliest classes of a photograph, by number, as each model sees them."""
    guesses = result["guesses"]
    table = Table(title=f"{guesses['file']}, a photograph of class {guesses['label']}", caption="classes of ImageNet")
    for name in MODELS.values():
        table.add_column(name, justify="right")
    for row in zip(*(guesses["top5"][name] for name in MODELS), strict=True):
        table.add_row(*(f"{number} ({likely:.1%})" for number, likely in row))
    return table
