"""``fuse_``: folding and fusing in place, all that can be or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekern.calibration.program import call_model, cause_of
from edgekern.fuse.calls import Calls
from edgekern.fuse.find import find_calls
from edgekern.fuse.parts import Parts, parts_of
from edgekern.fuse.plan import Fusion, Plan
from edgekern.fuse.report import ACTIVATION, LAYER, NORM, FuseReport, FuseRow
from edgekern.nn.fused import FusedConv2d, FusedLinear
from edgekern.nn.swap import uninterrupted
from edgekern.plan import check_model

TOLERANCE = 1e-3
"""Largest relative difference of a model's results before and after that counts as rounding, in float32."""


class FuseError(ValueError):
    """A model cannot be fused. It is as it was before the call."""


def fuse_(model: nn.Module, example_inputs: Any = None) -> FuseReport:
    """Puts batch normalisations and activations into the layers before them, in place: all that can be, or nothing.

    A normalisation in eval mode that alone reads what a convolution or linear layer gives is folded into its weight and
    bias: exact but for their rounding, since the new ones are computed in float64. An activation that alone reads
    what such a layer gives then, ReLU, ReLU6, Hardswish, SiLU or GELU, becomes part of it: the layer is an
    ``edgekern.nn.FusedConv2d`` or ``FusedLinear`` with the same parameters by the same names. A module of other code
    that does nothing but call such a function is one too. What was taken out is an ``nn.Identity`` then. A module that
    stands behind several layers is taken out of all these places, or stays.

    Convolutions that pad in a forward of their own, as TensorFlow's "SAME" does or by fixed zeros, become
    ``FusedConv2d`` that pad likewise, if on images of many sizes that gives the very bits of what they gave.

    Which module reads the result of which is found by ``torch.fx``, for any input and any options of the model that it
    can trace with; where that cannot trace the model, by ``torch.export`` as it runs on ``example_inputs``; else
    children of an ``nn.Sequential`` are taken to be called by that, one after the other. Anything that could be wrong
    is left alone, with the reason in the report: a result with several readers, an activation that is called as a
    function in the forward of a larger module, layers that are parametrised, pruned by a mask or recomputed, shared
    weights under a normalisation, hooks that would see other numbers or none, subclasses with a forward of their own.

    Weights that are zero stay zero. Modules and parameters stay the objects they are; a layer without a bias gets one
    when a normalisation is folded into it. ``nn.BatchNorm1d`` behind a linear layer is taken to normalise its
    features, as it does where results are [batch, features].

    Args:
        model: any module that holds layers.
        example_inputs: one batch: a mapping is passed as keyword arguments, a tuple or list as positional ones,
            anything else as the only one. The model is run on it before and after, and what was done is undone if
            the results differ. None does without.

    Returns:
        What became of every linear and 2-d convolution layer, batch normalisation and activation module.

    Raises:
        TypeError: not a module.
        FuseError: a normalisation in training mode; or, with ``example_inputs``, a model that does not run on them, or
            not to the same results: in float32, they differ by more than 1e-3 of the largest number among them.
    """
    check_model(model, "fuse", FuseError)
    parts = parts_of(model)
    _check_norms(parts)
    before = None if example_inputs is None else _results(model, example_inputs, "does not run on them")
    calls = find_calls(model, parts, example_inputs)
    plan = Plan(model, parts, calls)
    rows = tuple(_rows(parts, plan, calls))  # with the names of what is something else soon
    difference = None
    with _undone_on_failure() as undo:
        with uninterrupted():
            _carry_out(parts, plan, undo)
        if before is not None:
            after = _results(model, example_inputs, "does not run on them once it is fused, so it was left as it was")
            difference = _checked_difference(before, after)
    return FuseReport(rows, difference)


def _check_norms(parts: Parts) -> None:
    training = [
        parts.name(module)
        for module in parts.norms
        if module.training and cast(_BatchNorm, module).running_mean is not None
    ]
    if training:
        more = f" and {len(training) - 1} more" if len(training) > 1 else ""
        raise FuseError(
            f"model: expected normalisations in eval mode, but {training[0]!r}{more} would normalise by each batch, "
            "with no fixed numbers to fold; call model.eval() first"
        )


# ---------------------------------------------------------------------------------------------- carrying it out

Undo = list[Callable[[], None]]


@contextmanager
def _undone_on_failure() -> Iterator[Undo]:
    """Gives a list of what to do, last first, when the block ends by an exception."""
    undo: Undo = []
    try:
        yield undo
    except BaseException:
        with uninterrupted():
            for step in reversed(undo):
                step()
        raise


def _carry_out(parts: Parts, plan: Plan, undo: Undo) -> None:
    for fusion in plan.fusions.values():
        if fusion.values is not None:
            _give_values(fusion.layer.module, *fusion.values, undo)
        if fusion.padding is not None or fusion.activation is not None:
            _become(fusion.layer.module, _new_layer(parts, fusion), undo)
    for module in plan.into:
        _become(module, nn.Identity(), undo)


def _become(module: nn.Module, new: nn.Module, undo: Undo) -> None:
    """Makes a module what ``new`` is, but for its mode, its hooks and attributes of others.

    It stays the same object, so it does not matter who else holds it: a list in the model's code may.
    """
    old_class, old = type(module), dict(vars(module))
    undo.append(partial(_restore, module, old_class, old))
    kept = {name: value for name, value in old.items() if "hook" in name or name == "training"}
    _restore(module, type(new), {**old, **vars(new), **kept})


def _restore(module: nn.Module, of: type[nn.Module], attributes: dict[str, Any]) -> None:
    module.__class__ = of
    vars(module).clear()
    vars(module).update(attributes)


def _give_values(layer: nn.Module, weight: Tensor, bias: Tensor, undo: Undo) -> None:
    """Another weight and bias; the parameters that there are stay the same objects."""
    for name, new in (("weight", weight), ("bias", bias)):
        parameter = layer._parameters[name]
        if parameter is None:
            trains = cast(nn.Parameter, layer._parameters["weight"]).requires_grad
            undo.append(partial(layer._parameters.__setitem__, name, None))
            layer._parameters[name] = nn.Parameter(new, requires_grad=trains)
        else:
            undo.append(partial(setattr, parameter, "data", parameter.data))
            parameter.data = new


def _new_layer(parts: Parts, fusion: Fusion) -> nn.Module:
    module = fusion.layer.module
    activation = "none" if fusion.activation is None else parts.activations[fusion.activation]
    if isinstance(module, nn.Linear):
        return FusedLinear.of(module, activation)
    conv, padding = cast(nn.Conv2d, module), fusion.padding
    if isinstance(padding, str):
        return FusedConv2d.of(conv, activation, same_padding=True)
    fused = FusedConv2d.of(conv, activation, pads=padding)
    return fused.plain() if activation == "none" and fused.pads is None else fused


# ---------------------------------------------------------------------------------------------- before and after


def _results(model: nn.Module, batch: Any, failure: str) -> list[Tensor]:
    try:
        return [tensor.clone() for tensor in call_model(model, batch)]
    except Exception as error:
        raise FuseError(f"example_inputs: the model {failure}: {cause_of(error)}") from error


def _checked_difference(before: list[Tensor], after: list[Tensor]) -> float:
    shapes = [[list(tensor.shape) for tensor in tensors] for tensors in (before, after)]
    if shapes[0] != shapes[1]:
        raise FuseError(
            f"example_inputs: the model would give results of shapes {shapes[1]}, expected {shapes[0]} as before; "
            "it was left as it was"
        )
    difference = max(map(_difference, before, after), default=0.0)
    allowed = max([TOLERANCE, *(8 * torch.finfo(y.dtype).eps for y in before if y.is_floating_point())])
    if not difference <= allowed:
        raise FuseError(
            f"example_inputs: the model's results would differ by {difference:.1e} of the largest number in them, "
            f"expected at most {allowed:.1e}, so something reads what lies between two modules in a way that tracing "
            "does not show; it was left as it was. Fuse its parts one by one to find which"
        )
    return difference


def _difference(before: Tensor, after: Tensor) -> float:
    """Infinite where a number is none any more, or has become one."""
    if not before.numel():
        return 0.0
    before, after = before.double(), after.double()
    finite = before.isfinite()
    same = torch.equal(finite, after.isfinite()) and torch.equal(
        before[~finite].nan_to_num(), after[~finite].nan_to_num()
    )
    if not same:
        return torch.inf
    if not finite.any():
        return 0.0
    largest = before[finite].abs().max().item()
    apart = (before[finite] - after[finite]).abs().max().item()
    return apart / largest if largest else apart


# ---------------------------------------------------------------------------------------------- rows of the table


def _rows(parts: Parts, plan: Plan, calls: Calls) -> Iterator[FuseRow]:
    for module in parts.names:
        fusion = plan.fusions.get(module)
        norm, activation, padding = (fusion.norm, fusion.activation, fusion.padding) if fusion else (None, None, None)
        made = calls.of.get(module, [])
        yield FuseRow(
            name=parts.name(module),
            role=LAYER if fusion else NORM if module in parts.norms else ACTIVATION,
            kind=type(module).__name__,
            found=made[0].found if made else "",
            norm="" if norm is None else parts.name(norm),
            activation="" if activation is None else parts.activations[activation],
            padding="" if padding is None else str(padding),
            into=tuple(layer.name for layer in plan.into.get(module, ())),
            reason=plan.reasons.get(module, ""),
        )
