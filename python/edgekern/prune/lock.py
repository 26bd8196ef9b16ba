"""``MaskLock``: pruned weights stay at zero while a model trains."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class MaskLock:
    """Keeps weights that are zero now at zero, through any optimizer.

    An optimizer moves a pruned weight even where its gradient is zero: by momentum from before it was pruned, by
    moments, by noise. So the lock zeroes gradients of pruned weights before each step, such that optimizers which look
    at a whole tensor do not see them, and the weights themselves after it.

    Locked are, unless ``masks`` says so, the exact zeros in the weights of linear and 2-d convolution layers. A weight
    that is zero throughout is not locked, for it may be a layer that starts at zero to learn. Masks of
    ``torch.nn.utils.prune`` are taken over, of any parameter, and made permanent: ``weight_orig`` becomes ``weight``
    again, the same Parameter, so that an optimizer which holds it goes on.

    Parameters are looked up by name each time, so the lock survives ``load_state_dict(assign=True)`` and ``.to()``.
    Copied or pickled together with its model and optimizer, the copy locks the copies.

    Args:
        model: the model; DistributedDataParallel is one too.
        optimizer: attached at once, when given.
        masks: by parameter name, bool, of the parameter's shape: true where a weight is free. None: what is zero now.

    Raises:
        TypeError: an argument of another type, or a mask that is not bool.
        ValueError: a mask for a parameter that does not exist, or of another shape.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer | None = None, masks: Mapping[str, Tensor] | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        if optimizer is not None:
            _check_optimizer(optimizer)
        self._model = model
        self._optimizers: list[Optimizer] = []
        self._handles: list[RemovableHandle] = []
        self._masks: dict[str, Tensor] = {}
        given = None if masks is None else self._checked(masks)
        imported = _take_over_torch_masks(model)
        self._masks = _zeros(model) if given is None else given
        for name, mask in imported.items():
            self._masks[name] = mask & self._masks[name] if name in self._masks else mask
        self.apply_()
        if optimizer is not None:
            self.attach(optimizer)

    @property
    def masks(self) -> dict[str, Tensor]:
        """By parameter name: bool, true where a weight is free."""
        return dict(self._masks)

    @property
    def sparsity(self) -> dict[str, float]:
        """By parameter name: the share that is locked."""
        return {name: 1 - mask.float().mean().item() for name, mask in self._masks.items()}

    def attach(self, optimizer: Optimizer) -> None:
        """From now on, every step of ``optimizer`` keeps the zeros. Attaching it twice changes nothing.

        Raises:
            TypeError: not an optimizer.
        """
        _check_optimizer(optimizer)
        if any(optimizer is other for other in self._optimizers):
            return
        self._optimizers.append(optimizer)
        self._handles.append(optimizer.register_step_pre_hook(lambda *_: self.mask_gradients_()))
        self._handles.append(optimizer.register_step_post_hook(lambda *_: self.apply_()))

    def remove(self) -> None:
        """Lets go of all optimizers; the weights are as they are."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._optimizers.clear()

    @torch.no_grad()
    def apply_(self) -> None:
        """Zeroes the locked weights. Attached optimizers do it; loops that write weights otherwise call it."""
        for name, mask in self._masks.items():
            self._model.get_parameter(name).masked_fill_(~self._on_device(name, mask), 0)

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Zeroes the gradients of locked weights. Call it before gradients are clipped by their common norm."""
        for name, mask in self._masks.items():
            gradient = self._model.get_parameter(name).grad
            if gradient is not None:
                gradient.masked_fill_(~self._on_device(name, mask), 0)

    def update(self) -> None:
        """Locks what is zero now on top of what was locked; after pruning further."""
        for name, mask in self._masks.items():
            self._masks[name] = mask & (self._model.get_parameter(name).detach() != 0)
        self._masks = {**_zeros(self._model), **self._masks}

    def state_dict(self) -> dict[str, Tensor]:
        """The masks, for a checkpoint; see ``load_state_dict``."""
        return {name: mask.clone() for name, mask in self._masks.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes the masks of a checkpoint instead of the present ones, and applies them.

        Raises:
            TypeError: not a mapping of bool tensors; the lock is as it was.
            ValueError: a parameter that does not exist, or another shape; the lock is as it was.
        """
        self._masks = self._checked(state)
        self.apply_()

    def _checked(self, masks: object) -> dict[str, Tensor]:
        if not isinstance(masks, Mapping):
            raise TypeError(f"masks: expected a mapping of parameter names to bool tensors, got {type(masks).__name__}")
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        for name, mask in masks.items():
            if name not in parameters:
                close = difflib.get_close_matches(str(name), parameters, n=3)
                hint = f"; close to it: {', '.join(map(repr, close))}" if close else ""
                raise ValueError(f"masks: the model has no parameter {name!r}{hint}")
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise TypeError(f"masks: the mask of {name!r} must be a bool tensor, got {kind}")
            if mask.shape != parameters[name].shape:
                raise ValueError(
                    f"masks: the mask of {name!r} has shape {list(mask.shape)}, its parameter "
                    f"{list(parameters[name].shape)}"
                )
        return {name: mask.clone() for name, mask in masks.items()}

    def _on_device(self, name: str, mask: Tensor) -> Tensor:
        device = self._model.get_parameter(name).device
        if mask.device != device:
            self._masks[name] = mask = mask.to(device)
        return mask

    def __getstate__(self) -> dict[str, Any]:
        # Optimizers are copied without their hooks, so the copy attaches itself anew.
        return {"model": self._model, "optimizers": self._optimizers, "masks": self._masks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._model, self._masks = state["model"], state["masks"]
        self._optimizers, self._handles = [], []
        for optimizer in state["optimizers"]:
            self.attach(optimizer)

    def __repr__(self) -> str:
        locked = sum(int((~mask).sum()) for mask in self._masks.values())
        return f"MaskLock({locked} weights of {len(self._masks)} parameters, {len(self._optimizers)} optimizers)"


def _check_optimizer(optimizer: object) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}")


def _zeros(model: nn.Module) -> dict[str, Tensor]:
    """Masks of the layers' weights that hold zeros, but not only zeros."""
    masks = {}
    for path, module in model.named_modules():
        weight = module._parameters.get("weight") if isinstance(module, nn.Linear | nn.Conv2d) else None
        if weight is None or nn.parameter.is_lazy(weight) or weight.is_meta:
            continue
        mask = weight.detach() != 0
        if mask.any() and not mask.all():
            masks[f"{path}.weight" if path else "weight"] = mask
    return masks


def _take_over_torch_masks(model: nn.Module) -> dict[str, Tensor]:
    """Makes every pruning of ``torch.nn.utils.prune`` permanent, and returns its masks by parameter name."""
    masks = {}
    for path, module in model.named_modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, torch_prune.BasePruningMethod):
                name = hook._tensor_name
                mask = module.get_buffer(f"{name}_mask") != 0
                torch_prune.remove(module, name)
                masks[f"{path}.{name}" if path else name] = mask
    return masks
