"""What each operator does to channels.

An operator without a rule here freezes all channels it is given: less is removed than could be, but nothing wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgekern.prune.structured import attention_rules, layer_rules
from edgekern.prune.structured.call import (
    Call,
    Value,
    aligned,
    aligned_shape,
    meets_fixed,
    unknown,
    with_used_parameters,
    worked_along,
)
from edgekern.prune.structured.labels import NONE, compressed, no_labels, varying

Result = Tensor | Sequence[Tensor]
Rule = Callable[[Call], Result]


def result_labels(call: Call) -> Result:
    """Labels of the results; a tuple when there are several."""
    rule = RULES.get(call.name.rstrip("_"), unknown)
    return rule(call if rule.__module__ == layer_rules.__name__ else with_used_parameters(call))


def elementwise(call: Call) -> Tensor:
    """Entries that meet go together."""
    rank = len(call.shape)
    sides = [(aligned(value.labels, rank), aligned_shape(value.shape, rank), value) for value in call.values]
    lead = max((labels for labels, _, _ in sides), key=lambda labels: len(list(varying(labels))))
    dims = set(varying(lead))
    for labels, shape, value in sides:
        own = set(varying(labels))
        shared = {dim for dim in dims if shape[dim] > 1}
        # A parameter of one head's width, used for all of them, says nothing about which go together.
        if own == shared and own and (own == dims or value.parameter is None):
            call.labels.tie(lead, labels, meets_fixed(call))
            continue
        call.labels.freeze(labels, meets_fixed(call))
        if not own <= dims:
            call.labels.freeze(lead, meets_fixed(call))
        for dim in shared:
            call.labels.keep_whole(lead, dim, meets_fixed(call))
    return lead


def same_channels(call: Call) -> Tensor:
    """As the first argument; the others only say what becomes of it."""
    return call.args[0].labels


def spatial(call: Call) -> Tensor:
    """Pooling and resizing of the dimensions after the channels."""
    x: Value = call.args[0]
    return worked_along(call, x, range(2, len(x.shape)))


def padded(call: Call) -> Tensor:
    """Entries added at the ends, as many as a list says for the last dimension, the one before, ..."""
    x, ends = call.args[0], call.args[1]
    sides = [(len(x.shape) - 1 - pair, ends[2 * pair : 2 * pair + 2]) for pair in range(len(ends) // 2)]
    return worked_along(call, x, [dim for dim, added in sides if any(added)])


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
        call.labels.tie(values[0].labels, value.labels, meets_fixed(call))
    return values[0].labels


def reduced(call: Call) -> Tensor:
    """Sums, means and the like; over channels, each of them then counts for all."""
    x, dims, keepdim = call.args[0], call.arg(1), call.arg(2, False)
    rank = len(x.shape)
    named = [dims] if isinstance(dims, int) else dims or range(rank)
    over = [dim % rank for dim in named]
    if set(varying(x.labels)) <= set(over):
        call.labels.mixed.append((x.labels[x.labels != NONE], call.name))
        return no_labels(len(call.shape))
    left = worked_along(call, x, over)
    return left if keepdim else left.squeeze(tuple(over))


def normalised_along(call: Call) -> Tensor:
    """Softmax."""
    x, dim = call.args[0], call.args[1]
    return worked_along(call, x, [dim % len(x.shape)])


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
    **dict.fromkeys(("pad", "constant_pad_nd"), padded),
    **dict.fromkeys(("type_as", "zeros_like", "ones_like", "full_like"), same_channels),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax"), normalised_along),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), layer_rules.convolution),
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_rules.normalised_together),
    **dict.fromkeys(("matmul", "bmm"), attention_rules.multiplied),
    "linear": layer_rules.linear,
    "addmm": layer_rules.transposed_linear,
    "batch_norm": layer_rules.normalised,
    "embedding": layer_rules.embedding,
    "prelu": layer_rules.prelu,
    "cat": concatenated,
    "scaled_dot_product_attention": attention_rules.attended,
}
"""By the name of torch's operator."""
