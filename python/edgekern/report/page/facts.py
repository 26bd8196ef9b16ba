"""What a run's record says once it is compared: before and after, and which models no other beats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...compress.record import Measured, RunRecord
from . import texts
from .texts import BAD, GOOD, MINUS, PLAIN, TIMES, Change

NOT_MEASURED = "not measured"
_WHY_BELOW = "why not is said below"  # it may be long: one clause for each place that was looked at


@dataclass(frozen=True)
class Run:
    """A run, with what tells it from the others on a page."""

    name: str
    folder: Path
    record: RunRecord

    @property
    def points(self) -> tuple[Point, ...]:
        """The models that were measured, in order: the first is what the run began with."""
        stages = [(stage.name, stage.measured) for stage in self.record.stages]
        return tuple(Point(self.name, name, measured) for name, measured in stages if measured is not None)


@dataclass(frozen=True)
class Point:
    """A model that an evaluate stage measured."""

    run: str
    stage: str
    measured: Measured


@dataclass(frozen=True)
class Headline:
    """One figure of the first screen."""

    value: str
    label: str
    detail: str
    tone: str

    @property
    def in_words(self) -> bool:
        """Whether there is no number."""
        return self.value == NOT_MEASURED


@dataclass(frozen=True)
class Comparison:
    """One line of the table of before and after; empty where a model was not measured in it."""

    label: str
    before: str
    after: str
    change: Change


def most_threads(points: Iterable[Point]) -> int | None:
    """The most threads at which all were timed; None when there is no such number."""
    return _most(point.measured.milliseconds for point in points)


def most_powered(points: Iterable[Point]) -> int | None:
    """The most threads at which the joules of all are known; None when there is no such number."""
    return _most(point.measured.joules or {} for point in points)


def _most(found: Iterable[Mapping[int, float]]) -> int | None:
    counts = [each.keys() for each in found]
    return max((count for count in counts[0] if all(count in each for each in counts)), default=None)


def same_metric(points: Sequence[Point]) -> bool:
    """Whether the quality of all is the same thing."""
    return len({(point.measured.metric, point.measured.higher_is_better) for point in points}) <= 1


def why_no_joules(measured: Measured) -> str:
    """The sentence that stands where joules would."""
    said = measured.joules_reason or f"energy was {NOT_MEASURED}"
    return f"{said[:1].upper()}{said[1:].rstrip('.')}."


# ---------------------------------------------------------------------------------------------- before and after


def headlines(before: Measured | None, after: Measured) -> tuple[Headline, ...]:
    """The figures of the first screen: smaller, faster, quality kept, joules; of one model its own."""
    if before is None:
        return _alone(after)
    return (_size(before, after), _latency(before, after), _quality(before, after), _energy(before, after))


def _alone(measured: Measured) -> tuple[Headline, ...]:
    better = f"{'higher' if measured.higher_is_better else 'lower'} is better"
    found = [Headline(texts.size(measured.bytes_on_disk), "size", "of the saved checkpoint", PLAIN)]
    if (count := _most([measured.milliseconds])) is None:
        found.append(Headline(NOT_MEASURED, "latency", "it was not timed", PLAIN))
    else:
        value = texts.milliseconds(measured.milliseconds[count])
        found.append(Headline(value, "latency", f"of a call on {texts.threads(count)}", PLAIN))
    found.append(Headline(texts.quality(measured.quality), measured.metric, better, PLAIN))
    if (count := _most([measured.joules or {}])) is None or measured.joules is None:
        found.append(Headline(NOT_MEASURED, "energy", _WHY_BELOW, PLAIN))
    else:
        value = texts.joules(measured.joules[count])
        found.append(Headline(value, "energy", f"of a call on {texts.threads(count)}", PLAIN))
    return tuple(found)


def _size(before: Measured, after: Measured) -> Headline:
    old, new = before.bytes_on_disk, after.bytes_on_disk
    detail = f"{texts.size(new)} on disk, was {texts.size(old)}"
    return _factor(texts.fewer(old, new, "smaller", "larger"), texts.size(new), "size", detail)


def _latency(before: Measured, after: Measured) -> Headline:
    count = _most((before.milliseconds, after.milliseconds))
    if count is None:
        return Headline(NOT_MEASURED, "latency", "the two were not timed at the same number of threads", PLAIN)
    old, new = before.milliseconds[count], after.milliseconds[count]
    detail = f"{texts.milliseconds(new)} a call on {texts.threads(count)}, was {texts.milliseconds(old)}"
    return _factor(texts.fewer(old, new, "faster", "slower"), texts.milliseconds(new), "latency", detail)


def _energy(before: Measured, after: Measured) -> Headline:
    count = _most((before.joules or {}, after.joules or {}))
    if before.joules is None or after.joules is None:
        return Headline(NOT_MEASURED, "energy", _WHY_BELOW, PLAIN)
    if count is None:
        return Headline(NOT_MEASURED, "energy", "the two were not measured at the same number of threads", PLAIN)
    old, new = before.joules[count], after.joules[count]
    detail = f"{texts.joules(new)} a call on {texts.threads(count)}, was {texts.joules(old)}"
    return _factor(texts.fewer(old, new, "less energy", "more energy"), texts.joules(new), "energy", detail)


def _factor(change: Change, value: str, label: str, detail: str) -> Headline:
    """The factor in large print; the value itself where there is none."""
    factor, _, said = change.text.partition(" ")
    if TIMES not in factor:
        return Headline(value, f"{label}: {change.text}" if change.text else label, detail, change.tone)
    return Headline(factor, said, detail, change.tone)


def _quality(before: Measured, after: Measured) -> Headline:
    metric, old, new = after.metric, before.quality, after.quality
    if (before.metric, before.higher_is_better) != (metric, after.higher_is_better):
        return Headline(texts.quality(new), metric, f"it began with {texts.quality(old)} in {before.metric}", PLAIN)
    detail = f"{texts.quality(new)}, was {texts.quality(old)}"
    tone = PLAIN if new == old else GOOD if (new > old) == after.higher_is_better else BAD
    if old <= 0:  # no share of it can be kept
        return Headline(texts.quality(new), metric, detail, tone)
    if after.higher_is_better:
        return Headline(f"{100 * new / old:.1f} %", f"of {metric} kept", detail, tone)
    percent = 100 * (new - old) / old
    sign = "+" if percent >= 0 else MINUS
    return Headline(f"{sign}{abs(percent):.1f} %", f"{metric}, lower is better", detail, tone)


def comparisons(before: Measured | None, after: Measured) -> tuple[Comparison, ...]:
    """Every quantity that either was measured in."""
    old, new = before and quantities(before), quantities(after)
    return tuple(_compared(label, (old or {}).get(label), new.get(label)) for label in {**(old or {}), **new})


@dataclass(frozen=True)
class Quantity:
    """A number that models are compared by."""

    value: float
    text: str
    change: Callable[[float, float], Change]
    """From an earlier value to a later one."""


def quantities(measured: Measured) -> dict[str, Quantity]:
    """What there is of a model, by what it is called."""
    sized, timed = (
        partial(texts.fewer, better="smaller", worse="larger"),
        partial(texts.fewer, better="faster", worse="slower"),
    )
    powered = partial(texts.fewer, better="less", worse="more")
    metric = measured.metric[:1].upper() + measured.metric[1:]
    moved = partial(texts.moved, higher_is_better=measured.higher_is_better)
    sizes = {"Size on disk": measured.bytes_on_disk, "Size in memory": measured.bytes_in_memory}
    times = {f"Latency, {texts.threads(count)}": value for count, value in sorted(measured.milliseconds.items())}
    energies = {
        f"Energy a call, {texts.threads(count)}": value for count, value in sorted((measured.joules or {}).items())
    }
    return {
        **{label: Quantity(value, texts.size(value), sized) for label, value in sizes.items()},
        **{label: Quantity(value, texts.milliseconds(value), timed) for label, value in times.items()},
        **{label: Quantity(value, texts.joules(value), powered) for label, value in energies.items()},
        metric: Quantity(measured.quality, texts.quality(measured.quality), moved),
    }


def _compared(label: str, before: Quantity | None, after: Quantity | None) -> Comparison:
    change = after.change(before.value, after.value) if before and after else Change("", PLAIN)
    return Comparison(label, before.text if before else "", after.text if after else "", change)


# ---------------------------------------------------------------------------------------------- the frontier


def costs(point: Point, threads: int | None) -> tuple[float, ...]:
    """What a model is compared by, less being better in each: quality, size, and latency where all have it."""
    measured = point.measured
    quality = -measured.quality if measured.higher_is_better else measured.quality
    return (quality, measured.bytes_on_disk, *([] if threads is None else [measured.milliseconds[threads]]))


def unbeaten(points: Sequence[Point], threads: int | None) -> tuple[bool, ...]:
    """For each whether no other is at least as good in everything, and better in something."""
    all_costs = [costs(point, threads) for point in points]
    return tuple(not any(_beats(other, cost) for other in all_costs) for cost in all_costs)


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
