"""The machine's own limits, measured like any rival: int8 multiply-adds from registers and reads from memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np

from harness.subject import Subject

READ_BYTES = 256 << 20  # far beyond any last-level cache
PEAK_SECONDS = 10e-3  # of one call: long against starting a thread, short against a scheduler's slice


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

        steps = 1 << 12
        samples, _ = time_calls([lambda: self._core.peak_int8_macs(self._isa, steps)], 2e-3)
        steps = max(steps, int(steps * PEAK_SECONDS / min(samples)))
        macs = self._core.peak_int8_macs(self._isa, steps) * self.threads
        self.calls = [lambda: self._on_every_thread(lambda _: self._core.peak_int8_macs(self._isa, steps))]
        return {"work": macs, "unit": "MAC", "isa": self._isa}


class ReadBandwidth(_Limit):
    """Bytes a second read from memory, all threads together, each from its own part of one large array."""

    def prepare(self, **task: Any) -> dict[str, Any]:
        if not self.calls:
            parts = np.array_split(np.ones(READ_BYTES, np.uint8), self.threads)
            self.calls = [lambda: self._on_every_thread(lambda i: self._core.stream_read(self._isa, parts[i]))]
        return {"work": READ_BYTES, "unit": "byte", "isa": self._isa}
