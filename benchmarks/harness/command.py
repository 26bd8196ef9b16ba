"""What the benchmark commands share: their options' meaning, the header and the name of the results file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from harness.machine import cpu_slug, describe_machine, warn_if_loaded
from harness.process import WorkerError
from harness.table import Plan, write_results
from harness.tier import tier_environment

RESULTS = Path(__file__).resolve().parent.parent / "results"


def choose_rivals(asked: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The rivals to run: all by default, none for ["none"]. Raises BadParameter for a name not in `known`."""
    if asked == ["none"]:
        return []
    if unknown := set(asked or ()) - set(known):
        raise typer.BadParameter(f"rivals: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    return list(asked or known)


def caps(tier: str | None, isa: str | None) -> dict[str, str]:
    """The workers' environment for --tier and --isa. Raises BadParameter for an unknown tier."""
    try:
        return tier_environment(tier, isa)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def run(benchmark: str, plan: Plan, tier: str | None, isa: str | None, output: Path | None) -> None:
    """Measure `plan` into `output`, or into results/BENCHMARK-CPU[-TIER][-ISA]-DATE.jsonl."""
    console = Console(stderr=True)
    machine = describe_machine()
    if output is None:
        parts = [benchmark, cpu_slug(machine), tier, isa, machine["date"][:10]]
        output = RESULTS / ("-".join(part for part in parts if part) + ".jsonl")
    if warning := warn_if_loaded():
        console.print(f"[yellow]{warning}[/yellow]")
    settings = {"tier": tier, "isa": isa, "rounds": plan.rounds, "round_seconds": plan.seconds}
    try:
        write_results(plan, {"benchmark": benchmark, **machine, **settings}, output, console)
    except WorkerError as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        raise typer.Exit(1) from None
