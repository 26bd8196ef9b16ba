"""What lies between the linear layers of a decoder:

``rms_norm(Tensor x, Tensor weight, float eps) -> Tensor``
``rotary(Tensor q, Tensor k, Tensor cos, Tensor sin) -> (Tensor, Tensor)``
``gated_mlp(Tensor x, Tensor gate, Tensor up, Tensor down, SymInt out_features, int activation, int format,
int down_format) -> Tensor``

- ``x``: [..., K] float32, bfloat16 or float16 on CPU, any strides
- ``weight``: [K] of x's dtype
- ``q``, ``k``: [B, heads, T, D] of one dtype, any strides; ``cos``, ``sin``: [B or 1, T, D] of that dtype
- ``gate``, ``up``: packed as ``format`` says, a code of :data:`~edgekern.ops.LINEARS`; ``down``: as ``down_format``
  does; the three are layers without an activation, and ``activation`` is that of what gate gives
"""

from __future__ import annotations

import torch

from edgekern.ops.registration import check_fake, register


def _fake_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    check_fake("rms_norm", x, weight)
    return x.new_empty(x.shape)


def _fake_rotary(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    check_fake("rotary", q, k, cos, sin)
    return _like_heads(q), _like_heads(k)


def _like_heads(x: torch.Tensor) -> torch.Tensor:
    """An empty tensor in memory as the op leaves it: tokens first, or heads first, as in ``x``."""
    if x.stride(2) > x.stride(1):
        return x.new_empty((x.shape[0], x.shape[2], x.shape[1], x.shape[3])).transpose(1, 2)
    return x.new_empty(x.shape)


def _fake_gated_mlp(
    x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, out_features: int, *rest: int
) -> torch.Tensor:
    check_fake("gated_mlp", x, gate, up, down)
    return x.new_empty((*x.shape[:-1], out_features))


register("rms_norm", _fake_rms_norm)
register("rotary", _fake_rotary)
register("gated_mlp", _fake_gated_mlp)
