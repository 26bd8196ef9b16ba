"""The machine's two ceilings, measured: int8 multiply-adds from registers, and bytes read from memory.

A layer at large M cannot beat the first, a layer at M = 1 with weights in memory cannot beat the second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from .._lib import core

_REPEATS = 8  # the best of these counts: a ceiling is what the machine can do, not what it did while disturbed
_CALIBRATED_SECONDS = 0.02
_READ_BYTES = 256 << 20  # well past the last-level caches of the CPUs this is meant for


@dataclass(frozen=True)
class Limits:
    """Ceilings at a thread count: multiply-adds per second, and bytes per second."""

    threads: int
    macs_per_second: float
    bytes_per_second: float


def measure_limits(isa: str, threads: int) -> Limits:
    """Measures both ceilings of `isa` on `threads` threads; takes about half a second and 256 MB.

    Raises:
        ValueError: threads < 1, or this CPU cannot run `isa`.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    steps = _steps_for(isa, _CALIBRATED_SECONDS)
    parts = np.array_split(np.ones(_READ_BYTES, dtype=np.uint8), threads)
    macs = _best_rate(threads, lambda _: int(core.peak_int8_macs(isa, steps)))
    read = _best_rate(threads, lambda i: _read(isa, parts[i]))
    return Limits(threads, macs, read)


def _read(isa: str, part: np.ndarray) -> int:
    core.stream_read(isa, part)
    return part.nbytes


def _steps_for(isa: str, seconds: float) -> int:
    steps = 1 << 12
    while True:
        start = time.perf_counter()
        core.peak_int8_macs(isa, steps)
        if time.perf_counter() - start >= seconds:
            return steps
        steps *= 2


def _best_rate(threads: int, work: Callable[[int], int]) -> float:
    """Units per second over all threads, `work(i)` being thread i's share and returning the units it did."""
    barrier = threading.Barrier(threads)

    def timed(i: int) -> tuple[int, float, float]:
        barrier.wait()
        start = time.perf_counter()
        units = work(i)
        return units, start, time.perf_counter()

    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_REPEATS):
            runs = list(pool.map(timed, range(threads)))
            seconds = max(end for _, _, end in runs) - min(start for _, start, _ in runs)
            best = max(best, sum(units for units, _, _ in runs) / seconds)
    return best
