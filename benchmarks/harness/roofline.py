"""The machine's own limits, measured like any rival: int8 multiply-adds from registers and reads from memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.subject import Subject

READ_BYTES = 256 << 20  # far beyond any last-level cache
READ_CALLS = 4  # the array is read in this many calls of a few milliseconds each
PEAK_SECONDS = 5e-3  # of one call: long against waking a thread, short against a scheduler's slice


class _Limit(Subject):
    packages: ClassVar[tuple[str, ...]] = ("edgekern",)

    def __init__(self, threads: int) -> None:
        from edgekern import _core  # the extension alone: no torch, so no second pool in this process

        super().__init__(threads)
        self._core = _core
        self._isa = _core.default_isa()
        self._pool = ThreadPoolExecutor(threads)

    def _on_every_thread(self, work: Callable[[int], int]) -> None:
        """Run work(0..threads-1) at once; `work` releases the GIL."""
        if self.threads == 1:
            work(0)
        else:
            list(self._pool.map(work, range(self.threads)))


class PeakInt8(_Limit):
    """int8 multiply-adds a second, all threads together, with every operand in a register."""

    def prepare(self, **task: Any) -> dict[str, Any]:
        from harness.worker import time_calls

        trial = 1 << 12
        samples, _ = time_calls([partial(self._core.peak_int8_macs, self._isa, trial)], 2e-3)
        steps = max(trial, int(trial * PEAK_SECONDS / min(samples)))
        macs = self._core.peak_int8_macs(self._isa, steps) * self.threads
        self.calls = [partial(self._on_every_thread, lambda thread: self._core.peak_int8_macs(self._isa, steps))]
        return {"work": macs, "unit": "MAC", "isa": self._isa}


class ReadBandwidth(_Limit):
    """Bytes a second read from memory, all threads together, each from its own part of one large array."""

    def prepare(self, **task: Any) -> dict[str, Any]:
        size = READ_BYTES // READ_CALLS // self.threads  # of one thread's part of one call
        if not self.calls:
            parts = np.ones((READ_CALLS, self.threads, size), np.uint8)
            self.calls = [partial(self._on_every_thread, partial(self._read, part)) for part in parts]
        return {"work": size * self.threads, "unit": "byte", "isa": self._isa}

    def _read(self, part: NDArray[np.uint8], thread: int) -> int:
        return self._core.stream_read(self._isa, part[thread])
