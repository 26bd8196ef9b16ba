"""Latency of a model on given inputs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_MIN_REPEATS = 10
_STABLE = 0.01  # stop when the median is known to within this share of itself
_Z95 = 1.96


@dataclass(frozen=True)
class BenchResult:
    """Latency of one call, in milliseconds, and its energy."""

    p50: float
    p95: float
    mean: float
    min: float
    threads: int
    repeats: int
    joules: float | None = None
    """Of one call, on average; None where that was not measured."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready data; times in milliseconds."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        times = f"p50 {self.p50:.3f} ms, p95 {self.p95:.3f}, mean {self.mean:.3f}, min {self.min:.3f}"
        return f"{times} ({self.repeats} repeats, {self.threads} threads)"


def bench(
    model: nn.Module,
    inputs: Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any],
    *,
    threads: int | None = None,
    warmup_seconds: float = 0.5,
    max_seconds: float = 10.0,
    max_repeats: int = 100_000,
    progress: Callable[[float], None] | None = None,
) -> BenchResult:
    """Times ``model(inputs)`` in eval and inference mode, then puts training flags and thread count back.

    Runs until the median is known to within 1 % (95 % confidence, at least 10 repeats) or a limit is reached.

    Args:
        model: the module to call.
        inputs: one tensor, a tuple or list of positional arguments, or a mapping of keyword arguments.
        threads: torch's thread count while measuring; None leaves it.
        warmup_seconds: how long to run before measuring; at least two calls are made.
        max_seconds: time limit of the measurement; the call in progress ends and at least one is timed.
        max_repeats: limit of timed calls.
        progress: called with the share done, 0 to 1, about ten times a second.

    Raises:
        TypeError: ``model`` or ``inputs`` of another type.
        ValueError: a limit or thread count out of range.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    args, kwargs = _arguments(inputs)
    for name, count in (("threads", 1 if threads is None else threads), ("max_repeats", max_repeats)):
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")
    for name, seconds in (("warmup_seconds", warmup_seconds), ("max_seconds", max_seconds)):
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"{name}: expected a finite number of seconds from 0, got {seconds}")
    with _measuring(model, threads), torch.inference_mode():
        _warm_up(model, args, kwargs, warmup_seconds)
        times = _measure(model, args, kwargs, max_seconds, max_repeats, progress)
        return summarise(times, torch.get_num_threads())


def _arguments(inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    raise TypeError(
        "inputs: expected a tensor, a tuple of positional or a mapping of keyword arguments, "
        f"got {type(inputs).__name__}"
    )


@contextmanager
def _measuring(model: nn.Module, threads: int | None) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    before = torch.get_num_threads()
    try:
        model.eval()
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        for module in training:
            module.training = True
        torch.set_num_threads(before)


def _warm_up(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], seconds: float) -> None:
    end = time.perf_counter() + seconds
    model(*args, **kwargs)
    model(*args, **kwargs)
    while time.perf_counter() < end:
        model(*args, **kwargs)


def _measure(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    max_seconds: float,
    max_repeats: int,
    progress: Callable[[float], None] | None,
) -> list[float]:
    """Seconds of each timed call."""
    times: list[float] = []
    start = time.perf_counter()
    next_look, next_progress = _MIN_REPEATS, start
    while True:
        before = time.perf_counter()
        model(*args, **kwargs)
        now = time.perf_counter()
        times.append(now - before)
        share = max((now - start) / max_seconds if max_seconds else 1.0, len(times) / max_repeats)
        done = share >= 1
        if not done and len(times) >= next_look:
            done = _median_is_stable(times)
            next_look = len(times) * 5 // 4
        if progress is not None and (done or now >= next_progress):
            progress(1.0 if done else share)
            next_progress = now + 0.1
        if done:
            return times


def _median_is_stable(times: list[float]) -> bool:
    """Whether the 95 % confidence interval of the median, by rank, is narrow enough."""
    ordered = sorted(times)
    half = _Z95 * math.sqrt(len(ordered)) / 2
    low = ordered[max(0, math.floor(len(ordered) / 2 - half))]
    high = ordered[min(len(ordered) - 1, math.ceil(len(ordered) / 2 + half))]
    return high - low <= 2 * _STABLE * ordered[len(ordered) // 2]


def summarise(times: list[float], threads: int, joules: float | None = None) -> BenchResult:
    """The result for calls that took ``times`` seconds, and so many joules each."""
    ordered = sorted(1000 * seconds for seconds in times)

    def quantile(share: float) -> float:
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]

    return BenchResult(
        p50=quantile(0.50),
        p95=quantile(0.95),
        mean=sum(ordered) / len(ordered),
        min=ordered[0],
        threads=threads,
        repeats=len(ordered),
        joules=joules,
    )
