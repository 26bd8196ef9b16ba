"""What the benchmark commands share: their options' meaning, the header and the name of the results file."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from harness.machine import cpu_slug, describe_machine, warn_if_loaded
from harness.process import WorkerError
from harness.table import Plan, write_results
from harness.tier import tier_environment

RESULTS = Path(__file__).resolve().parent.parent / "results"

Cells = Annotated[list[str] | None, typer.Option(help="Name or glob, e.g. '128x*' or '*-cold'; repeatable.")]
Rivals = Annotated[list[str] | None, typer.Option(help="Only these rivals; repeatable. 'none': ours alone.")]
Threads = Annotated[list[int] | None, typer.Option(help="Thread counts; repeatable. Default: 1 and 2.")]
Rounds = Annotated[int, typer.Option(min=1, help="Interleaved rounds.")]
Seconds = Annotated[float, typer.Option(help="For each subject in each round.")]
Isa = Annotated[str | None, typer.Option(help="EDGEKERN_ISA for edgekern only.")]
Tier = Annotated[str | None, typer.Option(help="Hold everybody to avx2, avx_vnni or avx512_vnni.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Default: in benchmarks/results.")]


def choose_cells(cells: Sequence[dict[str, Any]], patterns: Sequence[str]) -> list[dict[str, Any]]:
    """Those of `cells` whose name matches a pattern. Raises BadParameter for a pattern that matches none."""
    for pattern in patterns:
        if not any(fnmatch.fnmatch(cell["name"], pattern) for cell in cells):
            raise typer.BadParameter(f"no cell is called like {pattern!r}; one is called {cells[0]['name']!r}")
    return [cell for cell in cells if any(fnmatch.fnmatch(cell["name"], pattern) for pattern in patterns)]


def choose_rivals(asked: Sequence[str] | None, known: Sequence[str], on_request: Sequence[str] = ()) -> list[str]:
    """The rivals to run: all known by default, none for ["none"]. Those `on_request` run where they are asked for.

    Raises BadParameter for any other name.
    """
    if asked == ["none"]:
        return []
    names = [*known, *on_request]
    if unknown := set(asked or ()) - set(names):
        raise typer.BadParameter(f"rivals: expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    return list(asked or known)


def caps(tier: str | None, isa: str | None) -> dict[str, str]:
    """The workers' environment for --tier and --isa. Raises BadParameter for an unknown tier."""
    try:
        return tier_environment(tier, isa)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def run(benchmark: str, plan: Plan, tier: str | None, isa: str | None, output: Path | None) -> None:
    """Measure `plan` into `output`, or into results/BENCHMARK-CPU[-TIER][-ISA]-DATE.jsonl."""
    from edgekern.bench import Joules  # after the options have been looked at: it imports torch

    console = Console(stderr=True)
    machine = describe_machine()
    if output is None:
        parts = [benchmark, cpu_slug(machine), tier, isa, machine["date"][:10]]
        output = RESULTS / ("-".join(part for part in parts if part) + ".jsonl")
    if warning := warn_if_loaded():
        console.print(f"[yellow]{warning}[/yellow]")
    settings = {"tier": tier, "isa": isa, "rounds": plan.rounds, "round_seconds": plan.seconds}
    try:
        write_results(plan, {"benchmark": benchmark, **machine, **settings}, output, console, Joules())
    except WorkerError as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        raise typer.Exit(1) from None
