"""What the template shows of a run: sections.py's charts, and everything else as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...compress.record import Measured, RunRecord
from . import texts
from .facts import Comparison, Headline, Point, Run, comparisons, headlines, why_no_joules
from .gallery import Chart, Gallery
from .layers import LayerPair, paired
from .sections import Frontier, Training, draw_frontiers, draw_layers, draw_models, draw_trainings


@dataclass(frozen=True)
class FrontierRow:
    """One model of a frontier's table."""

    name: str
    quality: str
    latency: str
    size: str
    joules: str
    unbeaten: bool


@dataclass(frozen=True)
class FrontierView:
    """A frontier: its charts and its table."""

    metric: str
    threads: str
    """Of the latencies; empty where there are none."""
    powered: str
    """Of the joules; empty where there are none."""
    charts: tuple[Chart, ...]
    rows: tuple[FrontierRow, ...]


@dataclass(frozen=True)
class LayerRow:
    """One layer of the long table."""

    name: str
    form: str
    parameters: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class StageRow:
    """One stage of the timeline."""

    name: str
    kind: str
    took: str
    begin: float
    """Percent of the run's time that had gone by when it began."""
    share: float
    """Percent of the run's time."""
    inputs: str
    outputs: tuple[tuple[str, str], ...]
    """File and hash."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RunView:
    """Everything that is shown of one run."""

    name: str
    model: str
    """What it is called, without the path that it was given by."""
    record: RunRecord
    measured_on: str
    headlines: tuple[Headline, ...]
    first: str
    """Name of the stage that measured the model before; empty where there is nothing to compare."""
    last: str
    """Name of the stage that measured the model after; empty where none did."""
    comparisons: tuple[Comparison, ...]
    why_no_joules: str
    """Of the last model, or the first; empty where nothing is missing."""
    charts: tuple[Chart, ...]
    frontiers: tuple[FrontierView, ...]
    layer_charts: tuple[Chart, ...]
    layer_columns: tuple[str, ...]
    layers: tuple[LayerRow, ...]
    trainings: tuple[Training, ...]
    stages: tuple[StageRow, ...]
    took: str
    machine: tuple[tuple[str, str], ...]


def view_run(run: Run, gallery: Gallery, prefix: list[str]) -> RunView:
    """Draws a run's charts and words all the rest.

    Raises:
        ValueError: a log that is none.
        OSError: a log that cannot be read, or a file that cannot be written.
    """
    points = run.points
    first = points[0].measured if len(points) > 1 else None
    last = points[-1].measured if points else None
    pairs = paired(first, last) if last else ()
    columns, layers = _layers(pairs)
    return RunView(
        name=run.name,
        model=texts.model_name(run.record.model),
        record=run.record,
        measured_on=_measured_on(run.record.machine),
        headlines=headlines(first, last) if last else (),
        first=points[0].stage if first else "",
        last=points[-1].stage if points else "",
        comparisons=comparisons(first, last) if last else (),
        why_no_joules=_why_no_joules(first, last),
        charts=tuple(draw_models(gallery, prefix, points)) if points else (),
        frontiers=tuple(view_frontier(frontier) for frontier in draw_frontiers(gallery, prefix, points)),
        layer_charts=tuple(draw_layers(gallery, prefix, pairs)),
        layer_columns=columns,
        layers=layers,
        trainings=tuple(draw_trainings(gallery, prefix, run)),
        stages=tuple(_stages(run.record)),
        took=texts.duration(sum(stage.seconds for stage in run.record.stages)),
        machine=tuple(_flat(run.record.machine)),
    )


def _why_no_joules(first: Measured | None, last: Measured | None) -> str:
    missing = [measured for measured in (last, first) if measured is not None and measured.joules is None]
    return why_no_joules(missing[0]) if missing else ""


def view_frontier(frontier: Frontier) -> FrontierView:
    """Its table."""
    several = len({point.run for point in frontier.points}) > 1
    rows = [
        _frontier_row(frontier, point, unbeaten, several)
        for point, unbeaten in zip(frontier.points, frontier.unbeaten, strict=True)
    ]
    return FrontierView(
        frontier.points[0].measured.metric,
        texts.threads(frontier.threads) if frontier.threads else "",
        texts.threads(frontier.powered) if frontier.powered else "",
        frontier.charts,
        tuple(rows),
    )


def _frontier_row(frontier: Frontier, point: Point, unbeaten: bool, several: bool) -> FrontierRow:
    measured = point.measured
    return FrontierRow(
        f"{point.run}: {point.stage}" if several else point.stage,
        texts.quality(measured.quality),
        texts.milliseconds(measured.milliseconds[frontier.threads]) if frontier.threads else "",
        texts.size(measured.bytes_on_disk),
        texts.joules(measured.joules[frontier.powered]) if frontier.powered and measured.joules else "",
        unbeaten,
    )


def _layers(pairs: Sequence[LayerPair]) -> tuple[tuple[str, ...], tuple[LayerRow, ...]]:
    """The header of the columns that hold something, and the rows."""
    columns: list[tuple[str, list[str]]] = [
        ("bytes before", [_cell(pair.bytes[0], texts.size) for pair in pairs]),
        ("bytes", [_cell(pair.bytes[1], texts.size) for pair in pairs]),
        ("time before", [_cell(pair.milliseconds[0], texts.milliseconds) for pair in pairs]),
        ("time", [_cell(pair.milliseconds[1], texts.milliseconds) for pair in pairs]),
        ("error", [_cell(pair.error, lambda error: f"{texts.digits(100 * error)} %") for pair in pairs]),
    ]
    used = [(name, cells) for name, cells in columns if any(cells)]
    rows = [
        LayerRow(
            pair.name,
            pair.form,
            f"{pair.parameters:,}",
            tuple(cells[i] for _, cells in used),
        )
        for i, pair in enumerate(pairs)
    ]
    return tuple(name for name, _ in used), tuple(rows)


def _cell(value: float | None, text: Any) -> str:
    return "" if value is None else text(value)


def _stages(record: RunRecord) -> Iterator[StageRow]:
    total = sum(stage.seconds for stage in record.stages) or 1
    begin = 0.0
    for stage in record.stages:
        yield StageRow(
            stage.name,
            stage.kind.replace("_", " "),
            texts.duration(stage.seconds),
            round(100 * begin / total, 2),
            round(100 * stage.seconds / total, 2),
            stage.inputs,
            tuple(stage.outputs.items()),
            stage.notes,
        )
        begin += stage.seconds


def _measured_on(machine: Mapping[str, Any]) -> str:
    """One line on the machine, of the keys of machine.py that are there."""
    said = [str(machine["cpu"])] if machine.get("cpu") else []
    said += [f"{machine['isa']} kernels"] if machine.get("isa") else []
    versions = machine.get("versions")
    if isinstance(versions, Mapping) and versions.get("torch"):
        said.append(f"torch {versions['torch']}")
    said += [f"commit {machine['commit']}"] if machine.get("commit") else []
    return ", ".join(said)


def _flat(data: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Keys and values, those inside of others behind them."""
    for key, value in data.items():
        name = f"{before}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}, ")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield name, ", ".join(map(str, value))
        elif value is not None:
            yield name, str(value)
