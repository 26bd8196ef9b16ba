"""Choosing how a layer's weights are packed: by measuring, on this CPU, with its threads.

Pruned weights make a layer smaller, and faster where a sparse form beats the dense one. Whether it does depends on the
mask, the shape, the rows of a call, the CPU, and on whether weights come from its cache (``memory.py``), so the forms
are tried. A sparse form is taken only when it was never slower than the dense one; see :class:`edgekern.Int8`,
:class:`edgekern.Int4`, :class:`edgekern.Float32` and :class:`edgekern.Float16` for what a user can ask for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Protocol

import torch
from torch import Tensor

from edgekern.config import MEASURED
from edgekern.kernels import default_isa
from edgekern.nn.memory import copies_to_measure

DENSE = "dense"
LEAST_ZEROS = 0.3  # share below which no mask pays: the best case, whole blocks, breaks even near it
GAIN = 0.93  # a sparse form has to take at most this share of the dense form's time, where it is to be a gain
ROUNDS = 7  # of each measurement; the fastest counts
SECONDS = 0.02  # most that one measurement takes, after three rounds


@dataclass(frozen=True)
class Timing:
    """The time of one call."""

    form: str
    rows: int
    seconds: float


@dataclass(frozen=True)
class Choice:
    """The form of a layer's packing, or two of them: one for calls of up to ``few_rows`` rows."""

    form: str = DENSE
    few: str = ""
    """The form for few rows; empty when ``form`` serves all calls."""
    few_rows: int = 0
    zeros: float = 0.0
    """Share of the weights that are zero."""
    timings: tuple[Timing, ...] = ()
    """What was measured; empty when nothing had to be."""
    note: str = ""
    """Why nothing was, where zeros could have been left out."""
    where: str = ""
    """What it was measured on, where rows do not say that."""

    def describe(self) -> str:
        """What was chosen, and how it compares: ``blocks_4 (1.1/2.9x dense at 1/128 rows)``."""
        forms = [self.form] if not self.few else [f"{self.few} up to {self.few_rows} rows", self.form]
        said = self.compare() if self.timings else self.note
        return ", ".join(forms) + (f" ({said})" if said else "")

    def compare(self) -> str:
        """How the form that was measured best compares with the dense one, whether it was taken or not."""
        best = self.form if self.form != DENSE else self._best_refused()
        speeds = "/".join(f"{speed:.1f}" for speed in self.speeds(best))
        where = self.where or f"{'/'.join(map(str, self.rows))} rows"
        return f"{speeds}x dense at {where}" if best == self.form else f"{best} is {speeds}x at {where}"

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows that were measured."""
        return tuple(dict.fromkeys(timing.rows for timing in self.timings))

    def speeds(self, form: str) -> list[float]:
        """Time of the dense form by that of ``form``, for each of :attr:`rows`."""
        times = _by_form(self.timings)
        return [dense / taken for dense, taken in zip(times[DENSE].values(), times[form].values(), strict=True)]

    def _best_refused(self) -> str:
        others = _by_form(self.timings).keys() - {DENSE}
        return max(sorted(others), key=lambda form: max(self.speeds(form)), default=DENSE)


Call = Callable[[Tensor], object]


class Weights(Protocol):
    """One layer's weights, and the forms they can take."""

    @property
    def zeros(self) -> float:
        """Share of them that are zero."""

    @property
    def kind(self) -> Hashable:
        """The same for weights whose forms run alike when they are of equal sizes: layers of one format and shape."""

    def inputs(self, rows: int) -> Tensor:
        """What to measure with."""

    def sizes(self) -> Mapping[str, float]:
        """Bytes of every form, the dense one among them; infinite where a form cannot hold these weights."""

    def ready(self, form: str, copies: int) -> Sequence[Call]:
        """Packs, and gives what computes the layer, as often as asked and each from a copy of its own."""


def random_rows(rows: int, features: int, dtype: torch.dtype) -> Tensor:
    """Inputs of a linear layer: [rows, features], the same at every call."""
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(0), device="cpu").to(dtype)


def dense_for_floats(weights: Weights, form: str) -> Choice:
    """The packing of a layer whose activations stay floats: its kernels know the dense form alone."""
    note = "zeros are multiplied: activations stay floats" if form == MEASURED else ""
    return Choice(zeros=weights.zeros, note=note)


def choose(weights: Weights, form: str, rows: tuple[int, ...] | int, packings: int = 1) -> Choice:
    """The packing that was asked for: ``form``, or where that is :data:`MEASURED`, the one that measures best."""
    zeros, rows = weights.zeros, (rows,) if isinstance(rows, int) else rows
    if form != MEASURED:
        return Choice(form, zeros=zeros)
    if zeros < LEAST_ZEROS:
        return Choice(zeros=zeros)
    sizes = weights.sizes()
    candidates = [form for form, size in sizes.items() if size <= sizes[DENSE]]  # never larger than dense
    if candidates == [DENSE]:
        return Choice(zeros=zeros)
    # Layers of a model come in a few shapes; those whose masks leave the same bytes run alike.
    copies = copies_to_measure(sum(int(sizes[form]) for form in candidates))
    key = (weights.kind, default_isa(), torch.get_num_threads(), rows, packings, copies > 1)
    like = tuple((form, round(math.log(sizes[form]) / 0.02)) for form in candidates)
    if (key, like) not in _measured:
        calls = {form: weights.ready(form, copies) for form in candidates}
        _measured[key, like] = _pick(_measure(calls, weights.inputs, rows), packings)
    known = _measured[key, like]
    return Choice(known.form, known.few, known.few_rows, zeros, known.timings)


_measured: dict[Hashable, Choice] = {}


def _measure(
    calls: Mapping[str, Sequence[Call]], inputs: Callable[[int], Tensor], rows: Sequence[int]
) -> tuple[Timing, ...]:
    """The fastest of several calls of each form at each number of rows, the forms in turn, each call the next copy."""
    turns = {form: cycle(copies) for form, copies in calls.items()}  # the next copy has waited longest
    timings = []
    with torch.inference_mode():
        for m in rows:
            x = inputs(m)
            best = dict.fromkeys(calls, math.inf)
            for copies in turns.values():
                _time(next(copies), x)  # brings code into the cache, and weights where there is one copy
            start = time.perf_counter()
            for done in range(ROUNDS):
                if done >= 3 and time.perf_counter() - start > SECONDS * len(calls):
                    break
                for form, copies in turns.items():
                    best[form] = min(best[form], _time(next(copies), x))
            timings += [Timing(form, m, seconds) for form, seconds in best.items()]
    return tuple(timings)


def _time(call: Call, x: Tensor) -> float:
    start = time.perf_counter()
    call(x)
    return time.perf_counter() - start


def _pick(timings: tuple[Timing, ...], packings: int) -> Choice:
    times = _by_form(timings)
    rows = list(times[DENSE])
    form = _best(times, rows)
    if packings == 1 or len(rows) == 1:
        return Choice(form, timings=timings)
    cuts = []
    for i in range(1, len(rows)):
        few, many = _best(times, rows[:i]), _best(times, rows[i:])
        cuts.append((_gain(times, few, rows[:i]) + _gain(times, many, rows[i:]), rows[i - 1], few, many))
    _, few_rows, few, many = max(cuts)
    return Choice(form, timings=timings) if few == many else Choice(many, few, few_rows, timings=timings)


def _best(times: dict[str, dict[int, float]], rows: list[int]) -> str:
    """The form with the largest gain over the dense one of those that are never slower than it."""
    dense = times[DENSE]
    never_slower = [form for form, taken in times.items() if all(taken[m] <= dense[m] for m in rows)]
    best = max(never_slower, key=lambda form: _gain(times, form, rows))
    return best if _gain(times, best, rows) >= -len(rows) * math.log(GAIN) else DENSE


def _gain(times: dict[str, dict[int, float]], form: str, rows: list[int]) -> float:
    return sum(math.log(times[DENSE][m] / times[form][m]) for m in rows)


def _by_form(timings: Sequence[Timing]) -> dict[str, dict[int, float]]:
    times: dict[str, dict[int, float]] = {}
    for timing in timings:
        times.setdefault(timing.form, {})[timing.rows] = timing.seconds
    return times
