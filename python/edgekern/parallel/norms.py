"""Batch norms that go by the rows of all ranks, as one rank with the whole batch would."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from edgekern.parallel.group import Group
from edgekern.parallel.reduce import sum_over


class SharedNorms(TorchFunctionMode):
    """Inside, ``batch_norm`` in training mode sends one message forward and one backward; modules stay as they are."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(self._group, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    group: Group,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = [0, *range(2, input.ndim)]

    def row(values: Tensor) -> Tensor:
        return values.view(1, -1, *[1] * (input.ndim - 2))

    # Mean and variance in one message: squares are those of distances from what is about the mean, or digits would go.
    # All of it as floats at least: under autocast the input is bfloat16, which cannot even count the rows.
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    near = x.new_zeros(x.shape[1]) if running_mean is None else running_mean.to(x.dtype)
    away = x - row(near)
    count = x.new_full((1,), x.numel() / x.shape[1])
    sums = _Sum.apply(group, torch.cat([away.sum(dims), away.square().sum(dims), count]))
    total = sums[-1].detach()
    shift, squares = (sums[:-1] / total).chunk(2)
    variance = (squares - shift.square()).clamp(min=0)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_((near + shift).to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (total / (total - 1))).to(running_var.dtype), momentum)
    scale = (variance + eps).rsqrt() if weight is None else (variance + eps).rsqrt() * weight
    normal = (away - row(shift)) * row(scale)
    return (normal if bias is None else normal + row(bias)).to(input.dtype)


class _Sum(torch.autograd.Function):
    """Over ranks; what one of them made of it counts for all of them in the gradient, too."""

    @staticmethod
    def forward(ctx: Any, group: Group, values: Tensor) -> Tensor:
        ctx.group = group
        return sum_over(group, values.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, sum_over(ctx.group, gradient.clone())
