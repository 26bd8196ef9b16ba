"""What each operator does to channels.

An operator without a rule here freezes all channels it is given: less is removed than could be, but nothing wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgekern.prune.structured.labels import NONE, Labels, along, compressed, no_labels, varying


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


Result = Tensor | Sequence[Tensor]
Rule = Callable[[Call], Result]


def result_labels(call: Call) -> Result:
    """Labels of the results; a tuple when there are several."""
    rule = RULES.get(call.name.rstrip("_"), unknown)
    return rule(call if rule in _OWN_WEIGHTS else _with_used_parameters(call))


def unknown(call: Call) -> Tensor:
    """Everything stays."""
    for value in call.values:
        _freeze_value(call.labels, value, f"what {call.name} does to channels is not known here")
    return no_labels(len(call.shape))


# ------------------------------------------------------------------------------------- layers, which hold parameters


def linear(call: Call) -> Tensor:
    """[..., in] times [out, in]."""
    x, weight, bias = call.args[0], call.args[1], call.arg(2)
    if weight.parameter is None or (bias is not None and bias.parameter is None):
        return unknown(call)
    _consume(call, x, len(x.shape) - 1, weight.parameter, 1)
    return _produce(call, weight.parameter, 0, bias, len(call.shape) - 1)


def transposed_linear(call: Call) -> Tensor:
    """A bias plus [rows, in] times [in, out]."""
    bias, x, weight = call.args[:3]
    if weight.parameter is None or bias.parameter is None:
        return unknown(call)
    _consume(call, x, 1, weight.parameter, 0)
    return _produce(call, weight.parameter, 1, bias, 1)


def convolution(call: Call) -> Tensor:
    """[N, in, ...] with [out, in / groups, ...]; grouped only when each input channel is its own group."""
    x, weight, bias = call.args[0], call.args[1], call.arg(2)
    groups = call.arg(6, 1)
    if weight.parameter is None or (bias is not None and bias.parameter is None):
        return unknown(call)
    kernel = weight.parameter
    channels = len(x.shape) - kernel.ndim + 1
    if groups == 1:
        _consume(call, x, channels, kernel, 1)
    elif kernel.shape[1] == 1:
        own = call.labels.axis(kernel, 0).labels
        inputs = _only_along(call, x, channels).repeat_interleave(len(own) // groups)
        call.labels.tie(inputs, own, _meets_fixed(call))
    else:
        reason = f"a convolution in {groups} groups keeps its channels"
        _freeze_value(call.labels, x, reason)
        call.labels.freeze(call.labels.axis(kernel, 0).labels, reason)
    return _produce(call, kernel, 0, bias, channels)


def normalised(call: Call) -> Tensor:
    """Batch norm: each channel by itself."""
    x = call.args[0]
    channels = _only_along(call, x, 1)
    for value in call.args[1:5]:
        if isinstance(value, Value) and value.parameter is not None:
            call.labels.tie(channels, call.labels.axis(value.parameter, 0).labels, _meets_fixed(call))
    return along(channels, 1, len(x.shape))


def normalised_together(call: Call) -> Tensor:
    """Layer norm and RMS norm: over the last dimension, which the channels then share."""
    x, shape = call.args[0], call.args[1]
    if len(shape) > 1:
        return unknown(call)
    channels = _only_along(call, x, len(x.shape) - 1)
    for value in call.args[2:4]:
        if isinstance(value, Value) and value.parameter is not None:
            call.labels.tie(channels, call.labels.axis(value.parameter, 0).labels, _meets_fixed(call))
    call.labels.mixed.append((channels[channels != NONE], call.name))
    return along(channels, len(x.shape) - 1, len(x.shape))


def embedding(call: Call) -> Tensor:
    """Rows of [words, width]."""
    weight = call.args[0].parameter
    return unknown(call) if weight is None else along(call.labels.axis(weight, 1).labels, -1, len(call.shape))


def prelu(call: Call) -> Tensor:
    """A slope for each channel, or one for all."""
    x, slope = call.args[0], call.args[1].parameter
    if slope is None:
        return unknown(call)
    if slope.numel() > 1:
        call.labels.tie(_only_along(call, x, 1), call.labels.axis(slope, 0).labels, _meets_fixed(call))
    return x.labels


# ------------------------------------------------------------------------------------- what holds none


def elementwise(call: Call) -> Tensor:
    """Entries that meet go together."""
    rank = len(call.shape)
    sides = [(_aligned(value.labels, rank), _aligned_shape(value.shape, rank), value) for value in call.values]
    lead = max((labels for labels, _, _ in sides), key=lambda labels: len(list(varying(labels))))
    dims = set(varying(lead))
    for labels, shape, value in sides:
        own = set(varying(labels))
        shared = {dim for dim in dims if shape[dim] > 1}
        # A parameter of one head's width, used for all of them, says nothing about which go together.
        if own == shared and own and (own == dims or value.parameter is None):
            call.labels.tie(lead, labels, _meets_fixed(call))
            continue
        call.labels.freeze(labels, _meets_fixed(call))
        if not own <= dims:
            call.labels.freeze(lead, _meets_fixed(call))
        for dim in shared:
            call.labels.keep_whole(lead, dim, _meets_fixed(call))
    return lead


def same_channels(call: Call) -> Tensor:
    """As the first argument; the others only say what becomes of it."""
    return call.args[0].labels


def spatial(call: Call) -> Tensor:
    """Pooling and resizing of the dimensions after the channels."""
    x: Value = call.args[0]
    return _worked_along(call, x, range(2, len(x.shape)))


def padded(call: Call) -> Tensor:
    """Entries added at the ends, as many as a list says for the last dimension, the one before, ..."""
    x, ends = call.args[0], call.args[1]
    sides = [(len(x.shape) - 1 - pair, ends[2 * pair : 2 * pair + 2]) for pair in range(len(ends) // 2)]
    return _worked_along(call, x, [dim for dim, added in sides if any(added)])


def moved(call: Call) -> Result:
    """Operators that only move entries move their labels the same way."""
    x, *rest = call.args
    if any(isinstance(arg, Value | torch.dtype) for arg in rest):
        return unknown(call)
    results = call.run(x.full.contiguous(), *rest)
    return compressed(results) if isinstance(results, Tensor) else tuple(map(compressed, results))


def concatenated(call: Call) -> Tensor:
    """One after the other: channels, or tokens and the like whose channels then go together."""
    values: list[Value] = [value for value in call.args[0] if 0 not in value.shape]  # such as a cache at its start
    if not values:
        return no_labels(len(call.shape))
    dim = call.args[1] % len(call.shape)
    if any(dim in varying(value.labels) for value in values):
        return compressed(torch.cat([value.full for value in values], dim))
    for value in values[1:]:
        call.labels.tie(values[0].labels, value.labels, _meets_fixed(call))
    return values[0].labels


def reduced(call: Call) -> Tensor:
    """Sums, means and the like; over channels, each of them then counts for all."""
    x, dims, keepdim = call.args[0], call.arg(1), call.arg(2, False)
    rank = len(x.shape)
    over = (
        range(rank) if dims is None or dims == [] else [d % rank for d in ([dims] if isinstance(dims, int) else dims)]
    )
    if set(varying(x.labels)) <= set(over):
        call.labels.mixed.append((x.labels[x.labels != NONE], call.name))
        return no_labels(len(call.shape))
    left = _worked_along(call, x, over)
    return left if keepdim else left.squeeze(tuple(over))


def normalised_along(call: Call) -> Tensor:
    """Softmax."""
    x, dim = call.args[0], call.args[1]
    return _worked_along(call, x, [dim % len(x.shape)])


def multiplied(call: Call) -> Tensor:
    """[..., rows, inner] times [..., inner, columns]: what comes before is heads."""
    left, right = call.args[0], call.args[1]
    if min(len(left.shape), len(right.shape)) < 2:
        return unknown(call)
    rank = len(call.shape)
    a, b = _aligned(left.labels, rank), _aligned(right.labels, rank)
    for labels in (a, b):
        for dim in (rank - 2, rank - 1):
            call.labels.keep_whole(labels, dim, f"{call.name} works along them")
    _tie_heads(call, a, _aligned_shape(left.shape, rank), b, _aligned_shape(right.shape, rank))
    return compressed(_first_along(b, [rank - 2])) if b.numel() > 1 else _first_along(a, [rank - 2, rank - 1])


def attended(call: Call) -> Tensor:
    """Attention of [..., heads, tokens, head_dim]; several queries' heads may share one of keys and values."""
    query, key, value = call.args[:3]
    heads = query.shape[-3] if len(query.shape) > 2 else 1
    sides = []
    for side in (query, key, value):
        for dim in (-2, -1):
            call.labels.keep_whole(side.labels, dim % len(side.shape), "the width of a head stays")
        labels = side.labels
        if len(side.shape) > 2 and labels.shape[-3] > 1:
            labels = labels.repeat_interleave(heads // labels.shape[-3], dim=-3)
        sides.append(labels)
    shapes = [(*side.shape[:-3], heads, *side.shape[-2:]) for side in (query, key, value)]
    _tie_heads(call, sides[0], shapes[0], sides[1], shapes[1])
    _tie_heads(call, sides[1], shapes[1], sides[2], shapes[2])
    mask = call.arg(3)
    if mask is not None:
        bias, shape = _aligned(mask.labels, sides[0].ndim), _aligned_shape(mask.shape, sides[0].ndim)
        for dim in (-2, -1):
            call.labels.keep_whole(bias, dim % bias.ndim, "a mask keeps its size")
        _tie_heads(call, sides[0], shapes[0], bias, shape)
    return compressed(_first_along(sides[2], [len(query.shape) - 2]))


# ------------------------------------------------------------------------------------- helpers


def _meets_fixed(call: Call) -> str:
    return f"in {call.name} it meets a tensor that keeps its size"


def _freeze_value(labels: Labels, value: Value, reason: str) -> None:
    labels.freeze(value.labels, reason)
    if value.parameter is not None:
        for dim in range(value.parameter.ndim):
            labels.freeze(labels.axis(value.parameter, dim).labels, reason)


def _with_used_parameters(call: Call) -> Call:
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


def _consume(call: Call, x: Value, dim: int, weight: Tensor, inputs: int) -> None:
    axis = call.labels.axis(weight, inputs)
    call.labels.tie(_only_along(call, x, dim), axis.labels, _meets_fixed(call))
    call.labels.consumers.append(axis)


def _produce(call: Call, weight: Tensor, outputs: int, bias: Value | None, dim: int) -> Tensor:
    axis = call.labels.axis(weight, outputs)
    call.labels.producers.append(axis)
    if bias is not None and bias.parameter is not None:
        call.labels.tie(axis.labels, call.labels.axis(bias.parameter, 0).labels, _meets_fixed(call))
    return along(axis.labels, dim, len(call.shape))


def _only_along(call: Call, x: Value, dim: int) -> Tensor:
    """The labels along one dimension, [size]; in the others nothing may go."""
    others = [other for other in range(len(x.shape)) if other != dim]
    for other in others:
        call.labels.keep_whole(x.labels, other, f"{call.name} works along another dimension")
    return _first_along(x.labels, others).reshape(-1).expand(x.shape[dim])


def _worked_along(call: Call, x: Value, dims: Sequence[int]) -> Tensor:
    """Labels of what an operator makes that needs these dimensions whole."""
    for dim in dims:
        call.labels.keep_whole(x.labels, dim, f"{call.name} works along them")
    return _first_along(x.labels, dims)


def _first_along(labels: Tensor, dims: Sequence[int]) -> Tensor:
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    return labels


def _aligned(labels: Tensor, rank: int) -> Tensor:
    return labels.reshape(_aligned_shape(labels.shape, rank))


def _aligned_shape(shape: Sequence[int], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + tuple(shape)


def _tie_heads(call: Call, a: Tensor, a_shape: Sequence[int], b: Tensor, b_shape: Sequence[int]) -> None:
    """All but the last two dimensions of two tensors go together."""
    left, right = (_first_along(labels, [labels.ndim - 2, labels.ndim - 1]) for labels in (a, b))
    for labels in (left, right):
        call.labels.heads.append(labels[labels != NONE])
    for dim in range(left.ndim - 2):
        if a_shape[dim] > 1 and b_shape[dim] > 1:
            if left.shape[dim] == 1:
                call.labels.keep_whole(right, dim, _meets_fixed(call))
            if right.shape[dim] == 1:
                call.labels.keep_whole(left, dim, _meets_fixed(call))
    if set(varying(left)) == set(varying(right)) and left.numel() > 1:
        call.labels.tie(left, right, _meets_fixed(call))


_ELEMENTWISE = """
add sub rsub mul div pow neg abs sqrt rsqrt square exp log sin cos erf relu relu6 gelu silu hardtanh hardswish
hardsigmoid sigmoid tanh leaky_relu elu selu celu softplus mish log_sigmoid clamp clamp_min clamp_max maximum minimum
where masked_fill gt ge lt le eq ne logical_and logical_or logical_not bitwise_not addcmul lerp dropout feature_dropout
alpha_dropout to _to_copy contiguous clone detach alias lift_fresh_copy
"""
_MOVED = """
view reshape _unsafe_view flatten unflatten transpose permute t unsqueeze squeeze select slice narrow expand
repeat repeat_interleave split split_with_sizes chunk unbind flip movedim swapaxes
"""
_SPATIAL = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d avg_pool1d avg_pool2d max_pool1d max_pool2d
upsample_nearest2d upsample_bilinear2d
"""
_REDUCED = "mean sum amax amin"

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), elementwise),
    **dict.fromkeys(_MOVED.split(), moved),
    **dict.fromkeys(_SPATIAL.split(), spatial),
    **dict.fromkeys(_REDUCED.split(), reduced),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax"), normalised_along),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("layer_norm", "rms_norm"), normalised_together),
    **dict.fromkeys(("matmul", "bmm"), multiplied),
    "linear": linear,
    "addmm": transposed_linear,
    "batch_norm": normalised,
    "embedding": embedding,
    "prelu": prelu,
    "cat": concatenated,
    "type_as": same_channels,
    "pad": padded,
    "constant_pad_nd": padded,
    "scaled_dot_product_attention": attended,
}
"""By the name of torch's operator."""

_OWN_WEIGHTS = (linear, transposed_linear, convolution, normalised, normalised_together, embedding, prelu)
