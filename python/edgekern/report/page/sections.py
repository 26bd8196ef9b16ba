"""What of a run is drawn: its models, the frontier, the layers and the trainings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ...compress.record import Measured, StageRecord
from ...figures import AFTER, BEFORE, COLOURS
from . import charts, texts
from .charts import Bar, Dot
from .curves import read_curves
from .facts import Point, Run, most_powered, most_threads, same_metric, unbeaten
from .gallery import Chart, Gallery
from .layers import LayerPair, Sides, shortened
from .texts import ARROW

_MOST_LAYERS = 12  # with a bar of their own


def draw_models(gallery: Gallery, prefix: list[str], points: Sequence[Point]) -> list[Chart]:
    """Bars of size, latency, quality and energy, one for each model measured."""
    threads, powered = most_threads(points), most_powered(points)
    first = points[0].measured
    found = [
        (
            "size",
            "Size on disk",
            "of the saved checkpoint",
            [float(p.measured.bytes_on_disk) for p in points],
            texts.size,
        )
    ]
    if threads is not None:
        values = [point.measured.milliseconds[threads] for point in points]
        found.append(("latency", "Latency", f"median of a call, {texts.threads(threads)}", values, texts.milliseconds))
    if same_metric(points) and all(point.measured.quality >= 0 for point in points):
        note = f"{first.metric}, {'higher' if first.higher_is_better else 'lower'} is better"
        found.append(("quality", "Quality", note, [point.measured.quality for point in points], texts.quality))
    if powered is not None:
        values = [point.measured.joules[powered] for point in points if point.measured.joules is not None]
        found.append(("energy", "Energy", f"of a call, {texts.threads(powered)}", values, texts.joules))
    return [
        _bars(gallery, [*prefix, file], heading, note, points, values, text)
        for file, heading, note, values, text in found
    ]


def _bars(
    gallery: Gallery,
    names: list[str],
    heading: str,
    note: str,
    points: Sequence[Point],
    values: Sequence[float],
    text: Callable[[float], str],
) -> Chart:
    rows = [
        Bar(point.stage, text(value), *((value, None) if i == 0 else (None, value)))
        for i, (point, value) in enumerate(zip(points, values, strict=True))
    ]
    label = f"{heading}, {note}: " + ", ".join(f"{row.name} {row.text}" for row in rows)
    return gallery.add(names, label, lambda: charts.bars(heading, note, rows))


# ---------------------------------------------------------------------------------------------- the frontier


@dataclass(frozen=True)
class Frontier:
    """Models of one metric against each other."""

    points: tuple[Point, ...]
    unbeaten: tuple[bool, ...]
    threads: int | None
    """At which latencies are compared; None where there is no number at which all were timed."""
    powered: int | None
    """Likewise of joules."""
    charts: tuple[Chart, ...]


def draw_frontiers(gallery: Gallery, prefix: list[str], points: Sequence[Point]) -> list[Frontier]:
    """One for each metric that two models or more were measured by."""
    by_metric: dict[tuple[str, bool], list[Point]] = {}
    for point in points:
        by_metric.setdefault((point.measured.metric, point.measured.higher_is_better), []).append(point)
    several = len(by_metric) > 1
    return [
        _frontier(gallery, [*prefix, "frontier", *([metric] if several else [])], group)
        for (metric, _), group in by_metric.items()
        if len(group) > 1
    ]


def _frontier(gallery: Gallery, names: list[str], points: Sequence[Point]) -> Frontier:
    threads, powered = most_threads(points), most_powered(points)
    best = unbeaten(points, threads)
    runs = list(dict.fromkeys(point.run for point in points))
    dots = [
        Dot(
            point.stage if len(runs) == 1 else f"{point.run}: {point.stage}",
            point.measured.quality,
            point.measured.bytes_on_disk / (max(other.measured.bytes_on_disk for other in points) or 1),
            _colour(runs, points, i),
            beaten=not best[i],
        )
        for i, point in enumerate(points)
    ]
    axes: list[tuple[str, str, list[float]]] = []
    if threads is not None:
        values = [point.measured.milliseconds[threads] for point in points]
        axes.append(("latency", f"ms a call, {texts.threads(threads)}", values))
    axes.append(("size", "MiB on disk", [point.measured.bytes_on_disk / 2**20 for point in points]))
    if powered is not None:
        values = [point.measured.joules[powered] for point in points if point.measured.joules is not None]
        axes.append(("energy", f"J a call, {texts.threads(powered)}", values))
    first = points[0].measured
    drawn = [_dots(gallery, [*names, what], first, what, unit, dots, values) for what, unit, values in axes]
    return Frontier(tuple(points), best, threads, powered, tuple(drawn))


def _dots(
    gallery: Gallery, names: list[str], of: Measured, what: str, unit: str, dots: Sequence[Dot], values: Sequence[float]
) -> Chart:
    heading = f"{of.metric[:1].upper()}{of.metric[1:]} and {what}"
    note = "bigger dots: bigger files; hollow: beaten by another"
    said = [
        f"{dot.name} {texts.quality(dot.quality)} at {texts.digits(x)} {unit}"
        for dot, x in zip(dots, values, strict=True)
    ]
    label = f"{heading}: {', '.join(said)}"
    axes = (unit, of.metric)
    return gallery.add(names, label, lambda: charts.dots(heading, note, dots, values, axes, of.higher_is_better))


def _colour(runs: Sequence[str], points: Sequence[Point], index: int) -> str:
    """A colour for each run; of a single one, grey for what it began with."""
    if len(runs) == 1:
        return BEFORE if index == 0 else AFTER
    return COLOURS[1 + runs.index(points[index].run) % (len(COLOURS) - 1)]


# ---------------------------------------------------------------------------------------------- layers


def draw_layers(gallery: Gallery, prefix: list[str], layers: Sequence[LayerPair]) -> list[Chart]:
    """Bars of bytes, time and error, as far as they are known, for the layers that have the most of each."""
    sizes = [(layer.name, layer.bytes) for layer in layers]
    times = [(layer.name, layer.milliseconds) for layer in layers]
    errors: list[tuple[str, Sides]] = [(layer.name, (None, layer.error)) for layer in layers]
    found = (
        ("bytes", "Bytes of layers", "", sizes, texts.size),
        ("time", "Time of layers", "", times, texts.milliseconds),
        ("error", "Error of layers", "of outputs, relative to floats", errors, _percent),
    )
    return [
        _layer_bars(gallery, [*prefix, "layers", file], heading, note, known, text)
        for file, heading, note, values, text in found
        if (known := [each for each in values if each[1] != (None, None)])
    ]


def _layer_bars(
    gallery: Gallery,
    names: list[str],
    heading: str,
    note: str,
    values: Sequence[tuple[str, Sides]],
    text: Callable[[float], str],
) -> Chart:
    compared = any(before is not None for _, (before, _) in values)

    def said(before: float | None, after: float | None) -> str:
        sides = ["-" if side is None else text(side) for side in (before, after)]
        return f" {ARROW} ".join(sides) if compared else sides[1]

    ranked = sorted(values, key=lambda each: -max(side or 0 for side in each[1]))
    names_shown = shortened([name for name, _ in ranked[:_MOST_LAYERS]])
    rows = [Bar(name, said(*sides), *sides) for name, (_, sides) in zip(names_shown, ranked, strict=False)]
    notes = [note] if note else []
    if rest := [sides for _, sides in ranked[_MOST_LAYERS:]]:
        before, after = (sum(side or 0 for side in each) for each in zip(*rest, strict=True))
        # Bytes and times add up, errors do not.
        notes.append(f"{len(rest)} others: {'less' if note else said(before, after)}")
    full = f"{heading}, before (grey) and after" if compared else heading
    label = f"{full}: " + ", ".join(f"{row.name} {row.text}" for row in rows)
    return gallery.add(names, label, lambda: charts.bars(full, "; ".join(notes), rows))


def _percent(error: float) -> str:
    return f"{texts.digits(100 * error)} %"


# ---------------------------------------------------------------------------------------------- trainings


@dataclass(frozen=True)
class Training:
    """The curves of a stage, or why there are none."""

    stage: str
    charts: tuple[Chart, ...]
    why_none: str


def draw_trainings(gallery: Gallery, prefix: list[str], run: Run) -> list[Training]:
    """The loss, every metric and the learning rate of each stage that trained.

    Raises:
        ValueError: a log that is none; the message names file and line.
        OSError: a log that cannot be read, or a file that cannot be written.
    """
    return [_training(gallery, prefix, run, stage) for stage in run.record.stages if stage.metrics is not None]


def _training(gallery: Gallery, prefix: list[str], run: Run, stage: StageRecord) -> Training:
    try:
        curves = read_curves(run.folder / str(stage.metrics))
    except FileNotFoundError:
        return Training(stage.name, (), f"Its log, {stage.metrics}, is not there any more.")
    names = [*prefix, "training", stage.name]
    # One number without a name is the quality that evaluate stages measure.
    metric = next((point.measured.metric for point in run.points), "Evaluation")
    found = []
    if curves.losses:
        steps = max(curve.steps[-1] for curve in curves.losses.values())
        note = f"{stage.name}, {steps:,.0f} steps"
        found.append((["loss"], "Loss", note, curves.losses, False))
    for name, curve in curves.evaluations.items():
        heading = metric if name == "value" else f"{name[:1].upper()}{name[1:]}"
        found.append((["evaluation", name], heading, f"{stage.name}, while it trained", {name: curve}, True))
    if len(set(curves.rate.values)) > 1:
        found.append((["rate"], "Learning rate", stage.name, {"rate": curves.rate}, False))
    drawn = [
        gallery.add([*names, *file], f"{heading}, {note}", partial(charts.lines, heading, note, each, marked))
        for file, heading, note, each, marked in found
    ]
    return Training(stage.name, tuple(drawn), "" if drawn else "It has logged no step.")
