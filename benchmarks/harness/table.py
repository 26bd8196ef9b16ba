"""Fill a table of (task x subject x threads) with timings: interleaved rounds, medians, progress, one record a line."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.machine import QUIET_SHARE, LoadMeter
from harness.process import Worker, WorkerError

if TYPE_CHECKING:
    from edgekern.bench import Joules  # imports torch

Record = dict[str, Any]
SCHEMA = 1  # of the results files


@dataclass(frozen=True)
class Plan:
    """What to measure. Each round gives every subject `seconds` of every task, in turn."""

    subjects: Sequence[str]
    limits: Sequence[str]  # subjects that measure the machine, recorded as rates
    threads: Sequence[int]
    tasks: Sequence[dict[str, Any]]
    rounds: int
    seconds: float
    environment: dict[str, str]  # for every worker: ISA caps
    required: Sequence[str] = ()  # subjects without which the run is not worth starting
    profiled: Sequence[str] = ()  # subjects also asked where their time goes
    pythons: Mapping[str, str] = field(default_factory=dict)  # subjects with an interpreter of their own
    takes_part: Callable[[str, dict[str, Any]], bool] = lambda subject, task: True


def statistics_of(samples: Sequence[float], rounds: int) -> Record:
    """Median, minimum and 90th percentile, in seconds, of every round's samples together."""
    ordered = sorted(samples)
    return {
        "median_s": statistics.median(ordered),
        "min_s": ordered[0],
        "p90_s": ordered[min(len(ordered) - 1, round(0.9 * (len(ordered) - 1)))],
        "samples": len(ordered),
        "rounds": rounds,
    }


def _start_workers(plan: Plan, threads: int, stack: ExitStack) -> Iterator[Worker | Record]:
    for name in (*plan.limits, *plan.subjects):
        try:
            python = plan.pythons.get(name, sys.executable)
            yield stack.enter_context(Worker(name, threads, plan.environment, python))
        except WorkerError as error:
            if name in plan.required:
                raise
            yield {"kind": "failure", "subject": name, "threads": threads, "reason": str(error)}


def _measure_task(plan: Plan, workers: Sequence[Worker], task: dict[str, Any], joules: Joules) -> Iterator[Record]:
    """All workers that take part, on one task. A subject that fails gets a failure record and the others go on.

    Energy comes last: rounds are too short for sensors. It is measured here, beside the worker, as a rival's own Python
    need not have edgekern; a sensor's figure is the machine's anyway, and all other workers are stopped.
    """
    workers = [worker for worker in workers if plan.takes_part(worker.name, task)]
    load = LoadMeter(worker.pid for worker in workers)
    facts: dict[str, Record] = {}
    samples: dict[str, list[float]] = {}
    ready = []
    for worker in workers:
        try:
            facts[worker.name] = worker.prepare(task)
            samples[worker.name] = []
            ready.append(worker)
        except WorkerError as error:
            yield {"kind": "failure", "subject": worker.name, "threads": worker.threads, **task, "reason": str(error)}
    for turn in range(plan.rounds):
        for i in range(len(ready)):  # another one goes first each round
            worker = ready[(turn + i) % len(ready)]
            samples[worker.name] += worker.sample(plan.seconds)
    spent = {worker.name: joules.of_calls(worker.repeat) for worker in ready}
    foreign = round(load.foreign_share(), 3)
    for worker in ready:
        kind = "limit" if worker.name in plan.limits else "timing"
        timing = statistics_of(samples[worker.name], plan.rounds)
        own = {"subject": worker.name, "threads": worker.threads, **task}
        found = {**timing, "joules": spent[worker.name], **facts[worker.name], "foreign_load": foreign}
        yield {"kind": kind, **own, **found}
        if worker.name in plan.profiled:
            yield {"kind": "profile", **own, "seconds": worker.profile()}


def measure(plan: Plan, on_step: Callable[[str], None], joules: Joules) -> Iterator[Record]:
    """Yield a record for every subject, thread count and task; `on_step` is told what is next."""
    for threads in plan.threads:
        with ExitStack() as stack:
            workers = []
            for started in _start_workers(plan, threads, stack):
                if isinstance(started, Worker):
                    workers.append(started)
                    yield {"kind": "versions", "subject": started.name, "threads": threads, **started.versions}
                else:
                    yield started
            for task in plan.tasks:
                on_step(f"{task['name']}, {threads} thread{'s' if threads > 1 else ''}")
                yield from _measure_task(plan, workers, task, joules)


def write_results(plan: Plan, header: Record, path: Path, console: Console, joules: Joules) -> None:
    """Measure, and write header and records to `path`; a run cut short leaves what it has in `path`.part.

    The header says by which sensor `joules` measures, or why there are none.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    loads: list[float] = []
    failures = 0
    part = path.with_name(path.name + ".part")
    with part.open("w") as file, Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=len(plan.tasks) * len(plan.threads))
        steps = 0

        def on_step(text: str) -> None:
            nonlocal steps
            progress.update(bar, description=text, completed=steps)
            steps += 1

        print(json.dumps({"kind": "header", "schema": SCHEMA, **header, "energy": joules.to_dict()}), file=file)
        for record in measure(plan, on_step, joules):
            print(json.dumps(record), file=file, flush=True)
            loads.append(record.get("foreign_load", 0.0))
            if record["kind"] == "failure":
                failures += 1
                progress.print(f"[red]{record['subject']}[/red] {record.get('name', '')}: {escape(record['reason'])}")
        progress.update(bar, completed=steps)
    part.replace(path)
    disturbed = sum(load > QUIET_SHARE for load in loads)
    if disturbed:
        console.print(f"[yellow]{disturbed} of {len(loads)} records were taken while others used the machine.[/yellow]")
    console.print(f"{path}: {len(loads)} records, {failures} failures")
