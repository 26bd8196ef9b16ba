"""`edgekern info`: which kernels run here, why, and the ceilings they run under."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from .. import kernels
from ..machine import describe_machine
from ..report.limits import measure_limits


def collect(measure: bool) -> dict[str, Any]:
    """The machine's description, its ISAs, and, when asked to measure, its limits at one thread and at all of them."""
    machine = describe_machine()
    threads = sorted({1, machine["threads"]})
    limits = [asdict(measure_limits(machine["isa"], count)) for count in threads] if measure else []
    return {**machine, "isas": kernels.isas(), "why": _why(machine), "limits": limits}


def _why(machine: dict[str, Any]) -> str:
    if machine["isa_forced"]:
        return f"EDGEKERN_ISA={machine['isa_forced']} asks for it"
    better = []
    for isa in kernels.isas():  # best first
        if isa["name"] == machine["isa"]:
            break
        better.append(f"{isa['name']} needs {', '.join(isa['missing'])}")
    return "the best this CPU runs" + (": " + "; ".join(better) if better else "")


def show(found: dict[str, Any], as_json: bool) -> None:
    """Prints what `collect` found."""
    console = Console()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row("CPU", found["cpu"])
    facts.add_row("Features", " ".join(found["features"]))
    facts.add_row("Kernels", f"[bold green]{found['isa']}[/], {found['why']}")
    facts.add_row("Threads", f"{found['threads']} of {found['cores']} cores")
    facts.add_row("Versions", ", ".join(f"{name} {value or 'absent'}" for name, value in found["versions"].items()))
    console.print(facts)

    isas = Table(title="Kernel sets, best first", title_justify="left")
    for name in ("set", "runs here", "missing CPU features"):
        isas.add_column(name)
    for isa in found["isas"]:
        isas.add_row(isa["name"], "yes" if isa["supported"] else "no", " ".join(isa["missing"]))
    console.print(isas)

    if found["limits"]:
        limits = Table(title=f"Measured ceilings of {found['isa']}", title_justify="left")
        for name in ("threads", "int8 multiply-adds", "memory read"):
            limits.add_column(name, justify="right")
        for row in found["limits"]:
            rate, bandwidth = row["macs_per_second"] / 1e9, row["bytes_per_second"] / 1e9
            limits.add_row(str(row["threads"]), f"{rate:.0f} G/s", f"{bandwidth:.1f} GB/s")
        console.print(limits)
