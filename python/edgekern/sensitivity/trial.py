"""One layer or group of a model changed by a scheme, for as long as it takes to look at that."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekern.calibration.ranges import find_ranges
from edgekern.config import GPTQ, Int4, Int8, Prune, Scheme
from edgekern.kernels import Range
from edgekern.nn import NativeLayer
from edgekern.nn.layers import Layer
from edgekern.nn.schemes import empty_native, obstacle_in_scheme
from edgekern.nn.swap import replace, settle, uninterrupted
from edgekern.plan import ConvertError
from edgekern.prune.apply import prune_
from edgekern.quantize import quantize_
from edgekern.sensitivity.units import Unit


@dataclass(frozen=True)
class Trial:
    """What became of a unit's layers."""

    modules: tuple[nn.Module, ...]
    """What runs in their places."""
    natives: tuple[NativeLayer, ...]
    """What they are converted to, each with weights; for pruned ones, what they would be. None where one is not."""
    zeros: int
    """Of the weights, before any are rounded."""
    reason: str = ""
    """Why a layer was left alone, and the unit with it."""


@contextmanager
def trial(
    model: nn.Module, unit: Unit, scheme: Scheme, batches: Iterable[Any], pruned_as: Scheme | None
) -> Iterator[Trial]:
    """Inside, the unit's layers are what ``scheme`` makes of them; afterwards the model is what it was, bit for bit.

    ``pruned_as`` is what to convert pruned weights to, beside the model; None leaves that.
    """
    with _restored(model, unit.layers, weights=isinstance(scheme, Prune | GPTQ)):
        zeros = sum(_zeros(layer.linear.weight) for layer in unit.layers)
        if isinstance(scheme, Prune):
            # Not sequential: one layer alone is judged by what it gets from dense ones either way.
            prune_(model, unit.rules(scheme), batches, sequential=False, progress=False)
            zeros = sum(_zeros(layer.linear.weight) for layer in unit.layers)
        elif isinstance(scheme, GPTQ):
            quantize_(model, unit.rules(scheme), batches, progress=False)
        to = scheme.to if isinstance(scheme, GPTQ) else pruned_as if isinstance(scheme, Prune) else scheme
        units = [] if to is None else [layer for layer in unit.layers if not obstacle_in_scheme(layer, to)]
        ranges: dict[nn.Module, Range | str] = {}
        if isinstance(to, Int8 | Int4) and to.needs_data:
            ranges = find_ranges(model, {each.module: (each.name, to) for each in units}, batches, progress=False)
        made = [] if to is None else [native(layer, to, ranges.get(layer.module)) for layer in units]
        reason = next((each for each in made if isinstance(each, str)), "")
        natives = tuple(each for each in made if isinstance(each, NativeLayer))
        complete = natives if len(natives) == len(unit.layers) else ()
        if isinstance(scheme, Prune):
            yield Trial(tuple(layer.module for layer in unit.layers), complete, zeros)
        elif reason:
            yield Trial((), (), zeros, reason)
        else:
            with uninterrupted():
                for layer, new in zip(unit.layers, complete, strict=True):
                    replace(layer, new)
                settle(model)
            yield Trial(complete, complete, zeros)


def native(layer: Layer, scheme: Scheme, found: Range | str | None = None) -> NativeLayer | str:
    """What converting makes of a layer, which stays as it is; or why it would leave it alone.

    Args:
        layer: of a model.
        scheme: what to convert it to.
        found: for static activations, the range of its inputs, or why there is none.

    Raises:
        ConvertError: the weights do not go with the scheme.
    """
    if isinstance(found, str):
        return found
    linear = layer.linear
    made = cast(NativeLayer, empty_native(layer, scheme))  # of a scan's layers none is a table
    if found is not None:
        made.input_range = found
    try:
        packed, reason = made.reserve(linear.weight, linear.bias)
    except ValueError as error:
        raise ConvertError(f"layer {layer.name!r} cannot be {scheme.format}: {error}") from None
    if reason:
        return reason
    made.take_(linear.weight, linear.bias, packed)
    return made


def runs_as(scheme: Scheme, rows: int | None) -> Scheme:
    """What a layer is timed as: pruned ones as what they were rounded to, or int8, for calls of ``rows`` if given."""
    if isinstance(scheme, GPTQ):
        return scheme.to
    if not isinstance(scheme, Prune):
        return scheme
    to = scheme.joint or Int8()
    return to if rows is None else dataclasses.replace(to, rows=rows)


@contextmanager
def _restored(model: nn.Module, layers: tuple[Layer, ...], *, weights: bool) -> Iterator[None]:
    """Puts the modules back when the block ends, however that comes about, and where asked the bits of the weights."""
    originals = [layer.linear.weight.detach().clone() for layer in layers] if weights else []
    try:
        yield
    finally:
        with uninterrupted(), torch.no_grad():
            for layer, original in zip(layers, originals, strict=False):
                layer.linear.weight.copy_(original)
            for layer in layers:
                for place in layer.places:
                    place.parent._modules[place.attribute] = layer.module
            settle(model)


def _zeros(weight: Tensor) -> int:
    return weight.numel() - int(weight.detach().count_nonzero())
