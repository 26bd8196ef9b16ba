"""``power_plan``: which threads, frequency governor and format take the least energy, and which the least time."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from edgekern import kernels
from edgekern._lib import set_num_threads
from edgekern.calibration.progress import progress_bar
from edgekern.config import Config, scheme_from_dict
from edgekern.convert import convert_
from edgekern.energy.governors import Governors, find_governors, trying
from edgekern.energy.host import Host
from edgekern.energy.meter import EnergyMeter
from edgekern.energy.points import PowerPlan, PowerPoint
from edgekern.plan import ConvertError, check_model
from edgekern.targets import THIS_CPU, resolve

FLOAT = "float"
_WARM_UP_SECONDS = 0.3  # also for the clock to settle after a change of governor
_LONGEST = 5.0  # seconds that a sensor may need for a figure, unless a meter is given

Work = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | Callable[[nn.Module], object]


def power_plan(
    model: nn.Module,
    work: Work,
    target: str = THIS_CPU,
    *,
    threads: Sequence[int] | None = None,
    formats: Sequence[str | Config] = (FLOAT, "int8", "int4"),
    governors: Sequence[str] | None = None,
    seconds: float = 2.0,
    meter: EnergyMeter | None = None,
    host: Host | None = None,
    progress: bool = True,
) -> PowerPlan:
    """Runs copies of ``model`` at each number of threads, with each governor, in each format; times and joules of each.

    The model stays as it is; so do torch's number of threads and the cores' governors, also when this ends by an
    exception or Ctrl-C. Joules are those of the whole machine while it does nothing else, idling counted in: a point
    that takes longer also pays longer for what the machine takes anyway. Without a sensor there are times alone, and
    the plan says why.

    Args:
        model: as for ``convert_``. A copy of it, in one format at a time, is in memory besides.
        work: what a call is of: one tensor, a tuple or list of positional arguments, or a mapping of keyword arguments;
            or a function that is called with each copy, as ``lambda model: model.generate(ids)``.
        target: "this CPU", or the name of the instruction set in use. Nothing is known of other machines: run it there.
        threads: numbers of threads; 1, 2, 4 and so on up to all cores, unless given.
        formats: "float", the model as it is; names of schemes that ``convert_`` takes, with their defaults; schemes or
            ``PerLayer``. One that the model cannot be converted to is in ``left_out``.
        governors: of Linux' cpufreq, as ("powersave", "performance"); all that there are unless given. Where none can
            be set, ``left_out`` says why, and what is there is used. An empty sequence leaves it as it is.
        seconds: how long to run each point, after 0.3 s that do not count; longer where the sensor needs longer.
        meter: to measure with; the machine's own sensors, of those that need no more than 5 s, unless given.
        host: where governors are looked for.
        progress: shows a progress bar.

    Raises:
        TypeError: an argument of another type.
        ValueError: another target, a number of threads, governor or format that does not exist, or nothing to measure.
        RuntimeError: a governor could not be set or put back.
    """
    check_model(model, "measure", ValueError)
    call = _caller(work)
    _check_target(target)
    counts = _check_threads(threads)
    configs = _check_formats(formats)
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds: expected a finite number above 0, got {seconds}")
    if meter is not None and not isinstance(meter, EnergyMeter):
        raise TypeError(f"meter: expected an EnergyMeter or None, got {type(meter).__name__}")
    settable = find_governors(host or Host())
    names, left_out = _check_governors(governors, settable)
    bench = _Bench(meter or EnergyMeter(within=_LONGEST), seconds)
    points: list[PowerPoint] = []
    total = len(configs) * len(names) * len(counts)
    with (
        _threads_kept(),
        trying(settable) as use,
        torch.inference_mode(),
        progress_bar("Measuring", total, progress) as go,
    ):
        for label, config in configs.items():
            tried = copy.deepcopy(model).eval()
            if config is not None:
                try:
                    convert_(tried, config, progress=False)
                except ConvertError as error:
                    left_out[label] = str(error)
                    continue
            for governor in names:
                if governor is not None:
                    use(governor)
                for count in counts:
                    set_num_threads(count)
                    points.append(bench.point(lambda tried=tried: call(tried), label, count, governor))  # type: ignore[misc]
                    go(f"{label}, {count} threads" + (f", {governor}" if governor else ""))
    if not points:
        raise ValueError(
            f"formats: nothing to measure; {'; '.join(f'{name}: {why}' for name, why in left_out.items())}"
        )
    measured = any(point.joules is not None for point in points)
    why = "" if measured else bench.why_none
    return PowerPlan(tuple(points), kernels.default_isa(), bench.meter.source, bench.meter.scope, why, left_out)


class _Bench:
    """Runs points, and keeps the first sentence that says why energy could not be measured."""

    def __init__(self, meter: EnergyMeter, seconds: float) -> None:
        self.meter, self.why_none = meter, meter.why_none
        self._seconds = max(seconds, meter.least_seconds)

    def point(self, call: Callable[[], object], label: str, threads: int, governor: str | None) -> PowerPoint:
        """Calls for a while."""
        call()
        warm = time.perf_counter() + _WARM_UP_SECONDS
        while time.perf_counter() < warm:
            call()
        times: list[float] = []
        with self.meter:
            end = time.perf_counter() + self._seconds
            while (before := time.perf_counter()) < end:
                call()
                times.append(time.perf_counter() - before)
        result = self.meter.result
        self.why_none = self.why_none or result.why_none
        joules = None if result.joules is None else result.joules / len(times)
        return PowerPoint(label, threads, governor, 1000 * median(times), joules, result.watts, len(times))


def _caller(work: object) -> Callable[[nn.Module], object]:
    if isinstance(work, Tensor):
        return lambda model: model(work)
    if isinstance(work, Mapping):
        return lambda model: model(**work)
    if isinstance(work, tuple | list):
        return lambda model: model(*work)
    if callable(work) and not isinstance(work, nn.Module):
        return work
    raise TypeError(
        "work: expected a tensor, a tuple of positional or a mapping of keyword arguments, or a function of the model; "
        f"got {type(work).__name__}"
    )


def _check_target(target: str) -> None:
    if resolve(target) != kernels.default_isa():
        raise ValueError(
            f"target: energy is measured, so only {THIS_CPU!r} ({kernels.default_isa()}) can be planned for, "
            f"got {target!r}; run power_plan on that machine"
        )


def _check_threads(threads: Sequence[int] | None) -> list[int]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads is None:
        return sorted({*(1 << i for i in range(cores.bit_length())), cores} - {0})
    counts = list(dict.fromkeys(threads))
    if not counts or any(type(count) is not int or not 1 <= count <= cores for count in counts):
        raise ValueError(f"threads: expected whole numbers from 1 to {cores}, the cores there are; got {threads!r}")
    return counts


def _check_formats(formats: Sequence[str | Config]) -> dict[str, Config | None]:
    """By the name that each is shown by."""
    if isinstance(formats, str) or not isinstance(formats, Sequence):
        raise TypeError(f"formats: expected a list of names or schemes, got {type(formats).__name__}")
    found: dict[str, Config | None] = {}
    for each in formats:
        if not isinstance(each, str):
            found[repr(each)] = each
        elif each == FLOAT:
            found[each] = None
        else:
            try:
                found[each] = scheme_from_dict({"format": each})
            except ValueError as error:
                raise ValueError(f"formats: expected {FLOAT!r} or a scheme that convert_ takes: {error}") from None
    if not found:
        raise ValueError("formats: expected at least one, as ('float', 'int8'); got none")
    return found


def _check_governors(wanted: Sequence[str] | None, settable: Governors) -> tuple[list[str | None], dict[str, str]]:
    """What to try, None being what is there; and what is left out, with the reason."""
    if wanted is not None and (isinstance(wanted, str) or not all(isinstance(name, str) for name in wanted)):
        raise TypeError(f"governors: expected a list of names or None, got {wanted!r}")
    if wanted is not None and not wanted:
        return [None], {}
    if settable.why_none:
        return [None], {"governors": settable.why_none}
    unknown = [name for name in wanted or () if name not in settable.names]
    if unknown:
        raise ValueError(f"governors: there is no {', '.join(unknown)} here; there are {', '.join(settable.names)}")
    return list(dict.fromkeys(wanted or settable.names)), {}


@contextmanager
def _threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        set_num_threads(before)
