"""An operator's call as rules see it, and what they do with its tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgekern.prune.structured.labels import Labels, along, no_labels


@dataclass(frozen=True)
class Value:
    """A tensor in the traced graph."""

    shape: tuple[int, ...]
    labels: Tensor
    """As many dimensions as the tensor; of size 1 where the labels do not vary."""
    parameter: Tensor | None = None
    """The parameter or buffer that it is."""

    @property
    def full(self) -> Tensor:
        """A label for every entry."""
        return self.labels.expand(self.shape)


@dataclass(frozen=True)
class Call:
    """An operator with its arguments, tensors among them as ``Value``."""

    name: str
    run: Callable[..., Any]
    args: tuple[Any, ...]
    shape: tuple[int, ...]
    """Of the (first) result."""
    labels: Labels

    def arg(self, index: int, default: Any = None) -> Any:
        """A positional argument, or its default."""
        return self.args[index] if index < len(self.args) else default

    @property
    def values(self) -> list[Value]:
        """All tensors among the arguments."""
        found: list[Value] = []
        for arg in self.args:
            found += [item for item in (arg if isinstance(arg, list | tuple) else [arg]) if isinstance(item, Value)]
        return found


def unknown(call: Call) -> Tensor:
    """Everything stays."""
    for value in call.values:
        freeze_value(call.labels, value, f"what {call.name} does to channels is not known here")
    return no_labels(len(call.shape))


def meets_fixed(call: Call) -> str:
    """The reason that most often keeps a channel."""
    return f"in {call.name} it meets a tensor that keeps its size"


def freeze_value(labels: Labels, value: Value, reason: str) -> None:
    """Nothing may go from a tensor, nor from the parameter that it is."""
    labels.freeze(value.labels, reason)
    if value.parameter is not None:
        for dim in range(value.parameter.ndim):
            labels.freeze(labels.axis(value.parameter, dim).labels, reason)


def with_used_parameters(call: Call) -> Call:
    """Parameters that are used like any tensor: channels are in the last dimension that has several entries."""

    def used(arg: Any) -> Any:
        if isinstance(arg, list | tuple):
            return type(arg)(map(used, arg))
        if not isinstance(arg, Value) or not isinstance(arg.parameter, torch.nn.Parameter):
            return arg
        wide = [dim for dim, size in enumerate(arg.shape) if size > 1]
        if not wide:
            return arg
        labels = call.labels.axis(arg.parameter, wide[-1]).labels
        return Value(arg.shape, along(labels, wide[-1], len(arg.shape)), arg.parameter)

    return Call(call.name, call.run, tuple(map(used, call.args)), call.shape, call.labels)


def only_along(call: Call, x: Value, dim: int) -> Tensor:
    """The labels along one dimension, [size]; in the others nothing may go."""
    others = [other for other in range(len(x.shape)) if other != dim]
    for other in others:
        call.labels.keep_whole(x.labels, other, f"{call.name} works along another dimension")
    return first_along(x.labels, others).reshape(-1).expand(x.shape[dim])


def worked_along(call: Call, x: Value, dims: Sequence[int]) -> Tensor:
    """Labels of what an operator makes that needs these dimensions whole."""
    for dim in dims:
        call.labels.keep_whole(x.labels, dim, f"{call.name} works along them")
    return first_along(x.labels, dims)


def first_along(labels: Tensor, dims: Sequence[int]) -> Tensor:
    """The labels at the start of these dimensions, which become of size 1."""
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    return labels


def aligned(labels: Tensor, rank: int) -> Tensor:
    """With leading dimensions of size 1, as in broadcasting."""
    return labels.reshape(aligned_shape(labels.shape, rank))


def aligned_shape(shape: Sequence[int], rank: int) -> tuple[int, ...]:
    """Likewise, of a shape."""
    return (1,) * (rank - len(shape)) + tuple(shape)
