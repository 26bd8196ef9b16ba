"""Linear layers that take no time: what is left of a model's time is out of any linear kernel's reach."""

from __future__ import annotations

import torch


class ZeroLinear(torch.nn.Module):
    """Hands out zeros of the right shape, made once."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self._out_features = out_features
        self._outputs: dict[torch.Size, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] to [..., out_features]."""
        output = self._outputs.get(x.shape)
        if output is None:
            output = self._outputs[x.shape] = x.new_zeros(*x.shape[:-1], self._out_features)
        return output


def make_instant(model: torch.nn.Module) -> None:
    """Puts a ZeroLinear in place of every nn.Linear."""
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for name, module in linears:
        model.set_submodule(name, ZeroLinear(module.out_features))
