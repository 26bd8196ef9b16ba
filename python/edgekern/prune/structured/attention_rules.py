"""Rules of products of tensors, and of attention, which is made of them: where channels become heads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgekern.prune.structured.call import Call, aligned, aligned_shape, first_along, meets_fixed, unknown
from edgekern.prune.structured.labels import NONE, compressed, varying


def multiplied(call: Call) -> Tensor:
    """[..., rows, inner] times [..., inner, columns]: what comes before is heads."""
    left, right = call.args[0], call.args[1]
    if min(len(left.shape), len(right.shape)) < 2:
        return unknown(call)
    rank = len(call.shape)
    a, b = aligned(left.labels, rank), aligned(right.labels, rank)
    for labels in (a, b):
        for dim in (rank - 2, rank - 1):
            call.labels.keep_whole(labels, dim, f"{call.name} works along them")
    _tie_heads(call, a, aligned_shape(left.shape, rank), b, aligned_shape(right.shape, rank))
    return compressed(first_along(b, [rank - 2])) if b.numel() > 1 else first_along(a, [rank - 2, rank - 1])


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
        bias, shape = aligned(mask.labels, sides[0].ndim), aligned_shape(mask.shape, sides[0].ndim)
        for dim in (-2, -1):
            call.labels.keep_whole(bias, dim % bias.ndim, "a mask keeps its size")
        _tie_heads(call, sides[0], shapes[0], bias, shape)
    return compressed(first_along(sides[2], [len(query.shape) - 2]))


def _tie_heads(call: Call, a: Tensor, a_shape: Sequence[int], b: Tensor, b_shape: Sequence[int]) -> None:
    """All but the last two dimensions of two tensors go together."""
    left, right = (first_along(labels, [labels.ndim - 2, labels.ndim - 1]) for labels in (a, b))
    for labels in (left, right):
        call.labels.heads.append(labels[labels != NONE])
    for dim in range(left.ndim - 2):
        if a_shape[dim] > 1 and b_shape[dim] > 1:
            if left.shape[dim] == 1:
                call.labels.keep_whole(right, dim, meets_fixed(call))
            if right.shape[dim] == 1:
                call.labels.keep_whole(left, dim, meets_fixed(call))
    if set(varying(left)) == set(varying(right)) and left.numel() > 1:
        call.labels.tie(left, right, meets_fixed(call))
