"""`edgekern bench`: int8 against what torch does with the same layer or model, in one run."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import edgekern as ek

from ..bench import Joules
from ..bench.interleave import interleave
from ..machine import describe_machine
from ..report.energy import energy_note, joules_text


@dataclass(frozen=True)
class Case:
    """What is timed: the same computation in several variants, by name; the first is the one to compare with.

    macs: multiply-adds of one call, where that is what is wanted.
    """

    title: str
    variants: Mapping[str, Callable[[], object]]
    macs: int | None = None


def linear_case(m: int, k: int, n: int, dtype: str) -> Case:
    """One linear layer, [m, k] to [m, n]; `dtype` names the activations of the int8 variant."""
    torch.manual_seed(0)
    x = torch.randn(m, k)
    variants = _variants(nn.Sequential(nn.Linear(k, n)), dtype)
    calls = {name: partial(model, x.to(outside)) for name, (model, outside) in variants.items()}
    return Case(f"Linear, {m} x {k} to {m} x {n}", calls, macs=m * k * n)


@dataclass(frozen=True)
class Convolution:
    """A square convolution over square images, padded by half its kernel."""

    batch: int
    in_channels: int
    out_channels: int
    size: int
    kernel: int
    stride: int
    groups: int


def conv_case(shape: Convolution, dtype: str) -> Case:
    """One convolution; `dtype` names the activations of the int8 variant. ValueError for groups that do not divide."""
    torch.manual_seed(0)
    x = torch.randn(shape.batch, shape.in_channels, shape.size, shape.size)
    channels, kernel = (shape.in_channels, shape.out_channels), (shape.kernel, shape.stride, shape.kernel // 2)
    conv = nn.Conv2d(*channels, *kernel, groups=shape.groups)
    variants = _variants(nn.Sequential(conv), dtype)
    calls = {name: partial(model, x.to(outside)) for name, (model, outside) in variants.items()}
    with torch.inference_mode():
        results = conv(x[:1]).numel() * shape.batch
    groups = f", {shape.groups} groups" if shape.groups > 1 else ""
    title = (
        f"Conv2d, {shape.kernel} x {shape.kernel}, stride {shape.stride}{groups}, "
        f"{shape.batch} x {shape.in_channels} x {shape.size} x {shape.size} to {shape.out_channels} channels"
    )
    return Case(title, calls, macs=results * conv.weight[0].numel())


def minilm_case(batch: int, sequence: int, dtype: str) -> Case:
    """The demo's encoder on `batch` texts of `sequence` tokens; raises MissingDataError when it is not installed."""
    from ..evaluate import load_minilm

    encoder = load_minilm()
    inputs = encoder.random_inputs(batch, sequence)
    variants = _variants(encoder.model, dtype)
    calls = {name: partial(model, **inputs) for name, (model, _) in variants.items()}
    return Case(f"MiniLM-L6, {batch} x {sequence} tokens", calls)


def _variants(model: nn.Module, dtype: str) -> dict[str, tuple[nn.Module, torch.dtype]]:
    """The model as torch runs it and converted, each with the dtype of its activations."""
    outside: torch.dtype = getattr(torch, dtype)
    bfloat16 = copy.deepcopy(model).to(torch.bfloat16)
    int8 = copy.deepcopy(model).to(outside)
    ek.convert_(int8, ek.Int8())
    return {
        "torch float32": (model.eval(), torch.float32),
        "torch bfloat16": (bfloat16.eval(), torch.bfloat16),
        f"edgekern int8, {dtype} outside": (int8.eval(), outside),
    }


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Times all variants in alternating rounds; milliseconds, and the speed-up of the median over the first variant.

    Joules of a call are measured after that, where the machine has a sensor; "energy" says which, or why not.
    """
    machine = describe_machine()  # before the measurement adds to the machine's load itself
    joules = Joules()
    with torch.inference_mode():
        timed = interleave(case.variants, rounds, joules=joules)
    first = next(iter(timed.values()))
    rows = []
    for name, result in timed.items():
        rate = case.macs / result.p50 / 1e6 if case.macs else None
        rows.append({"variant": name, **result.to_dict(), "gmacs_per_second": rate, "speedup": first.p50 / result.p50})
    return {"kind": "bench", "case": case.title, "machine": machine, "energy": joules.to_dict(), "rows": rows}


def show(result: dict[str, Any], form: str, note: bool = True) -> None:
    """Prints a result of `measure` as "table", "markdown" or "json"; with `note`, also what its joules are of."""
    if form == "json":
        print(json.dumps(result, indent=2))
        return
    machine = result["machine"]
    where = f"{machine['cpu']}, {machine['threads']} threads, {machine['isa']}, torch {machine['versions']['torch']}"
    header = ("", "p50", "p95", "min", "rate", "speed-up", "J/inference")
    rows = [_cells(row) for row in result["rows"]]
    if form == "markdown":
        print(f"{result['case']}; {where}.\n")
        print(
            "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ("---", *["---:"] * (len(header) - 1)), *rows))
        )
        if note:
            print(f"\n{energy_note(result['energy'])}")
        return
    table = Table(title=result["case"], caption=where)
    for name in header:
        table.add_column(name, justify="right" if name else "left")
    for cells in rows:
        table.add_row(*cells)
    Console().print(table)
    if note:
        print(energy_note(result["energy"]))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    times = [f"{row[key]:.3f} ms" if row[key] < 10 else f"{row[key]:.1f} ms" for key in ("p50", "p95", "min")]
    rate = f"{row['gmacs_per_second']:.0f} GMAC/s" if row["gmacs_per_second"] else ""
    return (row["variant"], *times, rate, f"{row['speedup']:.2f}x", joules_text(row["joules"]))
