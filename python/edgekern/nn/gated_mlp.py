"""The MLP of decoders in one operator: two layers that gate each other, and a third."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from edgekern import ops
from edgekern.nn.fused import ACTIVATION_FUNCTIONS

if TYPE_CHECKING:
    from edgekern.nn.native_linear import NativeLinear

_gated_mlp = torch.ops.edgekern.gated_mlp.default


class GatedMLP(nn.Module):
    """``down_proj(activation(gate_proj(x)) * up_proj(x))``: Shazeer, 2020 (arXiv:2002.05202).

    While its three layers are native and of formats that can share a call, they are run by one operator, which
    quantises ``x`` once and keeps what is between the layers in cache. Otherwise, as under hooks or with a layer
    replaced, each layer is called by itself. Both give the same but for the rounding of the product.

    Args:
        gate_proj, up_proj: layers of ``x``.
        down_proj: a layer of their product.
        activation: a name in ``edgekern.nn.fused.ACTIVATION_FUNCTIONS``.
    """

    def __init__(self, gate_proj: nn.Module, up_proj: nn.Module, down_proj: nn.Module, activation: str) -> None:
        super().__init__()
        self.gate_proj = gate_proj
        self.up_proj = up_proj
        self.down_proj = down_proj
        self.activation = activation
        self._activation_code = ops.ACTIVATIONS[activation]

    # Runs for every token and layer: it is written to take few steps.
    def forward(self, x: Tensor) -> Tensor:
        """``[..., features]`` to ``[..., features]``."""
        layers = cast("dict[str, NativeLinear]", self._modules)
        gate, up, down = layers["gate_proj"], layers["up_proj"], layers["down_proj"]
        code, down_code = _code(gate), _code(down)
        if code < 0 or down_code < 0 or code != _code(up):
            z = ACTIVATION_FUNCTIONS[self.activation](self.gate_proj(x))
            return self.down_proj(z * self.up_proj(x))
        return _gated_mlp(
            x, gate.packed, up.packed, down.packed, down.out_features, self._activation_code, code, down_code
        )

    def extra_repr(self) -> str:
        """The activation."""
        return f"activation={self.activation!r}"


def _code(layer: nn.Module) -> int:
    """The format of a layer that an op may run in its stead; -1 for any other, and for one with hooks."""
    own = vars(layer)
    if own["_forward_hooks"] or own["_forward_pre_hooks"]:
        return -1
    return own.get("linear_code", -1)
