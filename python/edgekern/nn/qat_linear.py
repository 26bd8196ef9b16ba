"""A linear layer that trains with the rounding it will have once it is converted."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekern import ops
from edgekern.config import FLOAT, STATIC, Int4, Int8, Scheme

_MOVED_IN = 0.51  # of a step: a weight that is further from its value lies beyond the levels of its group


class QATLinear(nn.Linear):
    """``nn.Linear`` that computes with weights and activations rounded as the native kernels round them.

    Weights are rounded by the native quantiser of the scheme, and each row (token) of the input as the kernels do it,
    or not at all where the scheme has activations stay floats. So what conversion makes of the layer gives the same
    results but for the order of float32 sums. Gradients pass rounding as if it were not there (the straight-through
    estimator, Bengio et al. 2013, arXiv 1308.3432). Where ``clip="mse"`` has moved a weight in to the end of its
    group's range, only such a gradient passes as would bring it back: one that drives it further out could change
    nothing now, and would widen the range of the others.

    The parameters are those of ``nn.Linear``, floats by the same names. Sums are float32, and also under autocast; the
    result has the dtype that ``nn.Linear`` gives it. It runs on the CPU.

    Args:
        in_features: K, columns of the weight.
        out_features: N, rows of the weight.
        bias: whether there is a bias.
        device, dtype: of the parameters.
        scheme: ``Int8()`` or ``Int4(...)``: what it will be converted to; ``Int8()`` when not given.

    Raises:
        TypeError: another scheme.
    """

    scheme: Int4 | Int8

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        scheme: Int4 | Int8 | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._float_class: type[nn.Linear] = nn.Linear
        self.scheme = Int8() if scheme is None else scheme
        if reason := untrainable(self.scheme):
            raise TypeError(f"QATLinear: scheme must be Int8() or Int4(...), got {scheme!r}{reason}")

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``.

        Raises:
            ValueError: a weight that is NaN or infinite, or too large for int4's scales.
            TypeError: tensors that are not on the CPU.
        """
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
        with torch.autocast("cpu", enabled=False):
            weight = self.rounded_weight()
            bias = None if self.bias is None else self.bias.float()
            kept = self.scheme.activations == FLOAT
            rows = input.float() if kept else cast(Tensor, _RoundRows.apply(input))
            return F.linear(rows, weight, bias).to(dtype)

    def rounded_weight(self) -> Tensor:
        """The weight at the values that it will be converted to, float32 ``[out_features, in_features]``.

        Raises as :meth:`forward` does.
        """
        try:
            return cast(Tensor, _RoundWeight.apply(self.weight, self.scheme))
        except ValueError as error:
            raise ValueError(f"{self}: {error}; did training diverge?") from None

    def extra_repr(self) -> str:
        """Sizes, and the scheme."""
        return f"{super().extra_repr()}, scheme={self.scheme!r}"


def become_qat_(linear: nn.Linear, scheme: Int4 | Int8) -> None:
    """Makes a plain linear layer a ``QATLinear``, the same module with the same parameters, hooks and all.

    A layer that is one already gets the scheme.
    """
    if not isinstance(linear, QATLinear):
        linear._float_class = type(linear)  # type: ignore[assignment]
        linear.__class__ = QATLinear
    linear.scheme = scheme  # type: ignore[assignment]


def become_float_(linear: QATLinear) -> None:
    """The inverse of :func:`become_qat_`."""
    float_class = linear._float_class
    del linear.scheme, linear._float_class
    linear.__class__ = float_class  # type: ignore[assignment]


def untrainable(scheme: object) -> str:
    """What to say of a scheme that no layer can train for; empty when one can."""
    if not isinstance(scheme, Int4 | Int8):
        return "; no others are trained for"
    if scheme.activations == STATIC:
        name = type(scheme).__name__
        return (
            ", whose ranges are found once, from calibration data, and would not follow the weights while they train; "
            f"train for {name}(), then undo_qat_(model) and convert_(model, {name}(activations='static'), data=batches)"
        )
    return ""


def at_odds(module: nn.Module, scheme: Scheme) -> str:
    """Why a layer must not be made what ``scheme`` says; empty when it is not prepared, or for that."""
    if not isinstance(module, QATLinear) or values_of(module.scheme) == values_of(scheme):
        return ""
    return (
        f"it is prepared to train for {module.scheme!r}, not for {scheme!r}; "
        "give it that scheme, or call undo_qat_(model) first"
    )


def values_of(scheme: Scheme) -> object:
    """What of a scheme decides about the values that weights are rounded to, and whether activations are."""
    if isinstance(scheme, Int4):
        return (scheme.format, scheme.activations, scheme.group_size, scheme.symmetric, scheme.clip)
    return (scheme.format, scheme.activations) if isinstance(scheme, Int8) else scheme.format


class _RoundRows(torch.autograd.Function):
    """Each row of the input at the values that the kernels see, as float32; its gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        q, scale, zero = ops.int8_quantize_rows(x.reshape(-1, x.shape[-1]).contiguous())
        rows = q.float().sub_(zero.float()[:, None]).mul_(scale[:, None])
        return rows.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].to(ctx.dtype)


class _RoundWeight(torch.autograd.Function):
    """A weight at the values of its scheme, as float32; its gradient passes but for weights that were moved in."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scheme: Int4 | Int8) -> Tensor:
        ctx.dtype = weight.dtype
        matrix = weight.detach().contiguous()
        if isinstance(scheme, Int8):
            q, scale = ops.int8_quantize(matrix)
            ctx.save_for_backward()
            return q.float().mul_(scale[:, None])
        w, scale, zero = ops.int4_quantize(matrix, scheme.group_size, symmetric=scheme.symmetric, clip=scheme.clip)
        values = ops.int4_values(w, scale, zero, k=weight.shape[1], group_size=scheme.group_size)
        if scheme.clip == "none":
            ctx.save_for_backward()
        else:
            step = scale.float().repeat_interleave(scheme.group_size, 1)[:, : weight.shape[1]]
            beyond = (matrix.float() - values).div_(step)
            # -1 and 1 below and above the levels, 0 among them.
            ctx.save_for_backward((beyond.sign() * (beyond.abs() > _MOVED_IN)).to(torch.int8))
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        for side in ctx.saved_tensors:
            # A step goes against the gradient: a negative one moves a weight up.
            gradient = gradient.masked_fill(side * gradient < 0, 0)
        return gradient.to(ctx.dtype), None
