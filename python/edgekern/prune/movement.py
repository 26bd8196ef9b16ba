"""Movement pruning (Sanh et al. 2020, arXiv 2005.07683): weights are judged by where training moves them.

A weight's score is the sum of -weight * gradient over all steps: it grows while descent drives the weight away from
zero, and falls while it drives it towards zero, however large the weight is. This is the paper's hard movement pruning,
top-v, but for one thing: there a weight that was masked goes on collecting a score and may return; here, as with every
method under ``MaskLock``, pruned weights are zero, so their score stands still and they stay pruned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Movement:
    """Adds up the scores of layers' weights, just before each step of an optimizer.

    What counts is the gradient that the optimizer is about to use: accumulated over several batches, averaged over
    processes, clipped. A step with a closure counts what each call of the closure gives. The learning rate is left out,
    for it scales all scores alike.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], optimizer: Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._totals: dict[str, Tensor | None] = dict.fromkeys(names)
        optimizer.register_step_pre_hook(self._before_step)

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Adds the scores now, or, as gradients only come with the closure, has that do it: new arguments of step()."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
        if closure is None:
            self._add()
            return None

        def watched() -> Any:
            loss = closure()
            self._add()
            return loss

        return (optimizer, watched), {}

    @torch.no_grad()
    def _add(self) -> None:
        for name, total in self._totals.items():
            weight = self._weight(name)
            if weight.grad is None:
                continue
            # Float32 whatever the weight is: small gradients of many steps add up.
            step = weight.float() * weight.grad.float()
            self._totals[name] = -step if total is None else total.sub_(step)

    def scores(self) -> dict[str, Tensor]:
        """By layer name, in the shape of the weight, for ``Pattern.keep``; layers that never had a gradient are absent.

        Weights that are zero get the same score, well below all others, so that what is pruned stays so.
        """
        totals = {name: total for name, total in self._totals.items() if total is not None}
        if not totals:
            return {}
        lowest = min(float(total.min()) for total in totals.values())
        highest = max(float(total.max()) for total in totals.values())
        gone = lowest - (highest - lowest)
        return {name: total.masked_fill(self._weight(name) == 0, gone) for name, total in totals.items()}

    def state_dict(self) -> dict[str, Tensor | None]:
        """The sums by layer name; None where there was no gradient yet."""
        return {name: None if total is None else total.clone() for name, total in self._totals.items()}

    def load_state_dict(self, state: Mapping[str, Tensor | None]) -> None:
        """Goes on from these sums.

        Raises:
            ValueError: they are for other layers, or of other shapes; nothing has changed.
        """
        if state.keys() != self._totals.keys():
            others = sorted(state.keys() ^ self._totals.keys())
            raise ValueError(f"movement: the scores are for other layers than these; at odds over {', '.join(others)}")
        for name, total in state.items():
            if total is not None and total.shape != (shape := self._weight(name).shape):
                raise ValueError(f"movement: the scores of {name!r} have shape {list(total.shape)}, not {list(shape)}")
        self._totals = {name: None if total is None else total.clone() for name, total in state.items()}

    def _weight(self, name: str) -> nn.Parameter:
        return self._model.get_parameter(f"{name}.weight" if name else "weight")

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._model, "optimizer": self._optimizer, "totals": self._totals}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # An optimizer is copied without its hooks: the copy gets one of its own.
        self._model, self._optimizer, self._totals = state["model"], state["optimizer"], state["totals"]
        self._optimizer.register_step_pre_hook(self._before_step)
