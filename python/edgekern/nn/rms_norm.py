"""RMS normalisation in one operator."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from edgekern import ops  # registers the op  # noqa: F401

_rms_norm = torch.ops.edgekern.rms_norm.default


class RMSNorm(nn.Module):
    """``x * weight / sqrt(mean(x ** 2) + eps)`` over the last dimension: Zhang and Sennrich, 2019 (arXiv:1910.07467).

    Inference on the CPU takes one native operator, where transformers' own norms take six of PyTorch's; it rounds once,
    from float32 to the dtype of ``x``. Under autograd, elsewhere, and where ``x`` and ``weight`` differ in dtype, it
    computes as those do, operator by operator.

    Args:
        weight: ``[features]``. It becomes the module's parameter, and stays the object it is.
        eps: added to the mean of squares.
    """

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    # This runs some sixty times a token: it is written to take few steps.
    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[..., features]`` to the same shape and dtype."""
        weight = cast(Tensor, self._parameters["weight"])
        if torch.is_grad_enabled() and (hidden_states.requires_grad or weight.requires_grad):
            return self.by_torch(hidden_states)
        if weight.dtype is not hidden_states.dtype or hidden_states.device.type != "cpu":
            return self.by_torch(hidden_states)
        return _rms_norm(hidden_states, weight, self.eps)

    def by_torch(self, x: Tensor) -> Tensor:
        """The same by PyTorch's operators."""
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)

    def extra_repr(self) -> str:
        """Features and eps."""
        return f"{tuple(self.weight.shape)}, eps={self.eps:g}"
