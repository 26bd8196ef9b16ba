"""Ranges of layers' inputs, from calibration data: what static activations are rounded by.

One pass over the data, on the model as it is, shows all layers their inputs. Of each layer its smallest and largest
value are kept, and a histogram where more has to be known. Its bins are floats with the same leading bits: sign,
exponent, and five bits of the fraction. So they are 3 % wide wherever values lie, outliers make none of the others
coarser, and nothing depends on the order of the data. They take 128 KB a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from edgekern import ops
from edgekern.calibration.errors import UNREACHED, DataError
from edgekern.calibration.observe import arguments, watch
from edgekern.calibration.progress import progress_bar
from edgekern.config import Int4, Int8
from edgekern.kernels import Range
from edgekern.plan import Decision

Ranges: TypeAlias = Mapping[nn.Module, Range | str]
"""What layers' inputs are rounded by, or why there is no range; nothing of layers that need none."""

NOTHING_BUT_ZEROS = "the calibration data give it nothing but zeros, which have no range"
"""Why a layer was left alone."""

_LEFT_OUT = 18  # trailing bits of a float32 that bins know nothing of
_BINS = 1 << 32 - _LEFT_OUT
_FINITE = 255 << 23 - _LEFT_OUT  # bins of one sign that are neither infinite nor NaN
_AT_ONCE = 1 << 22  # values whose bins are in memory at a time
_LARGEST_SCALE = 2.0**100  # of the kernels
_CUTS = 64  # ends of a range that are tried, from the whole on; an eighth of an octave apart


def needs_range(decision: Decision) -> bool:
    """Whether calibration data are needed for what shall become of a layer. A table has no inputs to round."""
    return decision.scheme is not None and decision.scheme.needs_data and not decision.layer.is_table


def ranges_for(
    model: nn.Module, decisions: Sequence[Decision], data: Iterable[Any] | None, *, progress: bool
) -> Ranges:
    """Those of the layers that shall have one; ``data`` are not looked at where there are none.

    Raises:
        DataError: as :func:`find_ranges`; no data where they are needed, or none that bring any layer a range where all
            need one.
    """
    wanted = {
        each.layer.module: (each.layer.name, cast("Int8 | Int4", each.scheme))
        for each in decisions
        if needs_range(each)
    }
    if not wanted:
        return {}
    name, scheme = next(iter(wanted.values()))
    if data is None:
        raise DataError(
            f"data: {scheme!r} for {name!r} needs calibration data; pass an iterable of batches: "
            "convert_(model, config, data=batches)"
        )
    ranges = find_ranges(model, wanted, data, progress=progress)
    reasons = [found for found in ranges.values() if isinstance(found, str)]
    if len(reasons) == sum(each.scheme is not None and each.owner is None for each in decisions):
        raise DataError(f"nothing to convert: {len(reasons)} layers are left alone, {name!r} since {reasons[0]}")
    return ranges


def find_ranges(
    model: nn.Module, wanted: Mapping[nn.Module, tuple[str, Int8 | Int4]], data: Iterable[Any], *, progress: bool
) -> dict[nn.Module, Range | str]:
    """For each layer the range that its inputs are to be rounded by, or why there is none.

    Args:
        model: as it is to be rounded, in floats.
        wanted: layers of it, linear or convolutions, each with its name and what it is to become.
        data: batches, which are looked at once.
        progress: shows a progress bar.

    Raises:
        DataError: there is no batch, or one gives a layer NaN, infinity, or values too large.
    """
    observers = {layer: InputRange(scheme) for layer, (_, scheme) in wanted.items()}
    total = len(data) if isinstance(data, Sized) else None
    with progress_bar("Finding ranges", total, progress) as advance:

        def batches() -> Iterator[Any]:
            for batch in data:
                yield arguments(batch)
                advance("")

        if not watch(model, observers, batches()):
            raise DataError("data: there is not one batch in it")
    return {layer: observers[layer].found(name) for layer, (name, _) in wanted.items()}


class InputRange:
    """Looks at tensors, and says what range ``scheme`` asks for to round all of their values by."""

    def __init__(self, scheme: Int8 | Int4) -> None:
        self._scheme = scheme
        self._low, self._high = 0.0, 0.0  # a range holds 0, so that 0 is exact
        self._seen = 0
        self._finite = True
        self._counts = None if scheme.ranges == "minmax" else torch.zeros(_BINS, dtype=torch.int64, device="cpu")

    def __call__(self, x: Tensor) -> None:
        """Looks at the values of ``x``, of any float dtype and shape."""
        if not x.numel():
            return
        low, high = (float(end) for end in torch.aminmax(x.detach()))
        self._seen += x.numel()
        self._finite = self._finite and math.isfinite(low) and math.isfinite(high)
        self._low, self._high = min(self._low, low), max(self._high, high)
        if self._counts is not None and self._finite:
            for part in x.detach().flatten().split(_AT_ONCE):
                leading = part.float().view(torch.int32) >> _LEFT_OUT & _BINS - 1
                self._counts += torch.bincount(leading, minlength=_BINS)

    def found(self, name: str) -> Range | str:
        """Scale and zero point, or why there are none; ``name`` is the layer's, for errors.

        Raises:
            DataError: NaN or infinity was among the values, or they are too large.
        """
        if not self._seen:
            return UNREACHED
        if not self._finite:
            raise DataError(f"the calibration data give {name!r} inputs with NaN or infinity")
        low, high = self._low, self._high
        if self._counts is not None:
            histogram = _Histogram.of(self._counts, low, high)
            percentile = self._scheme.ranges == "percentile"
            low, high = histogram.inner(self._scheme.percentile / 100) if percentile else histogram.best()
        found = _range_of(low, high) or _range_of(self._low, self._high)  # of the whole where nearly all are zeros
        if found is not None and found[0] > _LARGEST_SCALE:
            raise DataError(
                f"the calibration data give {name!r} inputs from {low:.3g} to {high:.3g}, too large to round"
            )
        return found or NOTHING_BUT_ZEROS


def _range_of(low: float, high: float) -> Range | None:
    """What the native side rounds a row with these two ends by; None for one that counts as zeros."""
    q, scale, zero_point = ops.int8_quantize_rows(torch.tensor([[low, high]], dtype=torch.float32, device="cpu"))
    return (float(scale), int(zero_point)) if q.any() else None


@dataclass(frozen=True)
class _Histogram:
    """How many values lie in each of rising bins: all float64, [bins]."""

    counts: Tensor
    lower: Tensor
    upper: Tensor
    low: float
    """The smallest value, or 0 where that is smaller."""
    high: float
    """The largest value, or 0 where that is larger."""

    @classmethod
    def of(cls, counts: Tensor, low: float, high: float) -> _Histogram:
        """From counts by leading bits: those of the positive floats, rising, then those of the negative, falling."""
        edges = torch.arange(_FINITE + 1, dtype=torch.int32, device="cpu") << _LEFT_OUT
        edges = edges.view(torch.float32).double().clamp(max=torch.finfo(torch.float32).max)
        positive, negative = counts.double().chunk(2)
        return cls(
            torch.cat([negative[:_FINITE].flip(0), positive[:_FINITE]]),
            torch.cat([-edges[1:].flip(0), edges[:-1]]),
            torch.cat([-edges[:-1].flip(0), edges[1:]]),
            low,
            high,
        )

    def inner(self, share: float) -> tuple[float, float]:
        """The ends of the range that holds this share of the values, and 0, with as many left out at either end."""
        total = float(self.counts.sum())
        out = total * (1 - share) / 2
        # What is left of the upper end lies in the bin where so many are reached, of the lower end where more are.
        ends = self._reached(out, right=True), self._reached(total - out, right=False)
        return min(0.0, max(self.low, ends[0])), max(0.0, min(self.high, ends[1]))

    def _reached(self, count: float, *, right: bool) -> float:
        """The value below which ``count`` values lie; those of a bin are taken to be spread evenly."""
        sums = self.counts.cumsum(0)
        at = min(int(torch.searchsorted(sums, count, right=right)), len(sums) - 1)
        inside = float(self.counts[at])
        before = float(sums[at]) - inside
        lower, upper = float(self.lower[at]), float(self.upper[at])
        return lower + (upper - lower) * ((count - before) / inside if inside else 0.0)

    def best(self) -> tuple[float, float]:
        """The ends of the range, of those tried, with the lowest expected squared error.

        A value errs by a twelfth of the step's square, as it would anywhere between two steps; by itself, where it is
        less than half a step and becomes 0; and outside of the range, by what it is moved in.
        """
        parts = 2.0 ** (-torch.arange(_CUTS, dtype=torch.float64, device="cpu") / 8)
        lows, highs = self.low * parts, self.high * parts
        values = ((self.lower + self.upper) / 2).clamp(self.low, self.high)
        below, above = (lows[:, None] - values).clamp(min=0), (values - highs[:, None]).clamp(min=0)
        moved = (below.square() @ self.counts)[:, None] + above.square() @ self.counts
        outside = ((below > 0).double() @ self.counts)[:, None] + (above > 0).double() @ self.counts
        steps = (highs - lows[:, None]) / 255
        zeroed, lost = self._below(steps / 2)
        errors = moved + lost + (self.counts.sum() - outside - zeroed) * steps.square() / 12
        at = int(errors.argmin())
        return float(lows[at // _CUTS]), float(highs[at % _CUTS])

    def _below(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """How many values are smaller than each of ``sizes``, of either sign, and the sum of their squares."""
        half = len(self.counts) // 2
        counts = self.counts[half:] + self.counts[:half].flip(0)
        middles = (self.lower[half:] + self.upper[half:]) / 2
        none = counts.new_zeros(1)
        at = torch.searchsorted(middles, sizes)
        squares = torch.cat([none, (counts * middles.square()).cumsum(0)])
        return torch.cat([none, counts.cumsum(0)])[at], squares[at]
