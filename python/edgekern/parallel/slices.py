"""Parts of linear layers: some output features, or some input features whose results are added up afterwards.

Slices are made of a layer's canonical tensors, so the integers and the scales of a part are those of the whole layer.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from edgekern.config import DYNAMIC, Int4
from edgekern.nn import NativeLinear

EXTRA = 2
"""Input features that a part gets on top where activations are rounded by each row's own range: see below."""


def some_outputs(layer: nn.Module, start: int, stop: int) -> nn.Module:
    """A layer that gives the output features from ``start`` on, before ``stop``."""
    if isinstance(layer, NativeLinear):
        parts = {
            name: tensor if name in ("input_scale", "input_zero_point") else tensor[start:stop].clone()
            for name, tensor in layer.state_dict().items()
        }
        return _native(layer, layer.in_features, stop - start, parts, bias=layer.bias_dtype is not None)
    linear = cast(nn.Linear, layer)
    new = nn.Linear(linear.in_features, stop - start, linear.bias is not None, device="meta")
    new.weight = nn.Parameter(linear.weight[start:stop].detach().clone(), linear.weight.requires_grad)
    if linear.bias is not None:
        new.bias = nn.Parameter(linear.bias[start:stop].detach().clone(), linear.bias.requires_grad)
    return new.train(linear.training)


def some_inputs(layer: nn.Module, start: int, stop: int) -> nn.Module:
    """A layer without a bias that multiplies the input features from ``start`` on, before ``stop``.

    Where activations are rounded by each row's own range, that has to be the range of the whole row, of which a part
    knows its own values. So it gets two more input features, of weight zero: with the least and the largest value of
    the whole row there, the kernel rounds as it would the whole row, and its integer sums are parts of the layer's.

    Raises:
        ValueError: it cuts through a group of int4 weights.
    """
    if isinstance(layer, NativeLinear):
        extra = EXTRA if needs_range(layer) else 0
        tensors = {name: tensor for name, tensor in layer.state_dict().items() if name != "bias"}
        if isinstance(layer.scheme, Int4):
            parts = _int4_inputs(tensors, layer.scheme.group_size, layer.in_features, start, stop, extra)
        else:
            weight = tensors["weight"][:, start:stop]
            parts = {**tensors, "weight": nn.functional.pad(weight, (0, extra))}
        return _native(layer, stop - start + extra, layer.out_features, parts, bias=False)
    linear = cast(nn.Linear, layer)
    new = nn.Linear(stop - start, linear.out_features, False, device="meta")
    new.weight = nn.Parameter(linear.weight[:, start:stop].detach().clone(), linear.weight.requires_grad)
    return new.train(linear.training)


def needs_range(layer: nn.Module) -> bool:
    """Whether each row of input is rounded by its own range."""
    return isinstance(layer, NativeLinear) and layer.activations == DYNAMIC


def grain_of(layer: nn.Module) -> int:
    """Input features that must not be parted."""
    return layer.scheme.group_size if isinstance(layer, NativeLinear) and isinstance(layer.scheme, Int4) else 1


def _native(layer: NativeLinear, k: int, n: int, tensors: dict[str, Tensor], *, bias: bool) -> NativeLinear:
    bias_dtype = layer.bias_dtype if bias else None
    new = type(layer)(k, n, bias, layer.activation, dtype=layer.dtype, bias_dtype=bias_dtype, scheme=layer.scheme)
    new.load_state_dict({name: tensor.contiguous() for name, tensor in tensors.items()})
    return new.train(layer.training)


def _int4_inputs(
    tensors: dict[str, Tensor], group: int, k: int, start: int, stop: int, extra: int
) -> dict[str, Tensor]:
    if start % group or (stop % group and stop != k) or k % 2:
        raise ValueError(
            f"input features {start} to {stop} of {k} cut through a group of {group} int4 weights; convert with a "
            "smaller group_size, or start other numbers of ranks"
        )
    weight, scale = tensors["weight"][:, start // 2 : stop // 2], tensors["weight_scale"]
    groups = slice(start // group, -(-stop // group))
    scale, zero = scale[:, groups], tensors.get("weight_zero")
    zero = None if zero is None else zero[:, groups]
    if extra:
        if (stop - start) % group == 0:  # a group of their own
            scale = torch.cat([scale, torch.ones_like(scale[:, :1])], 1)
            zero = None if zero is None else torch.cat([zero, torch.full_like(zero[:, :1], 8)], 1)
        nothing = torch.full_like(weight[:, :1], 8) if zero is None else zero[:, -1:]
        weight = torch.cat([weight, nothing | nothing << 4], 1)
    parts = {"weight": weight, "weight_scale": scale}
    return parts if zero is None else {**parts, "weight_zero": zero}
