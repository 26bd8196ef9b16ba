"""What a model keeps beside its parameters, made the same on all ranks: each has seen its own rows of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekern.parallel.group import Group
from edgekern.parallel.reduce import sum_over


@torch.no_grad()
def share_buffers(model: nn.Module, group: Group) -> None:
    """Running statistics of batch norms become their means over the ranks, all other buffers those of rank 0."""
    if group.size == 1:
        return
    means = {id(tensor): tensor for module in model.modules() for tensor in _statistics(module)}
    others = [buffer for buffer in model.buffers() if id(buffer) not in means]
    if means:
        together = torch.cat([tensor.reshape(-1).float() for tensor in means.values()])
        parts = (sum_over(group, together) / group.size).split([tensor.numel() for tensor in means.values()])
        for tensor, part in zip(means.values(), parts, strict=True):
            tensor.copy_(part.view(tensor.shape))
    if others:
        message = torch.cat([buffer.contiguous().view(-1).view(torch.uint8) for buffer in others])
        parts = group.broadcast(message).split([buffer.nbytes for buffer in others])
        for buffer, part in zip(others, parts, strict=True):
            buffer.copy_(part.clone().view(buffer.dtype).view(buffer.shape))  # cloned, it is aligned


def _statistics(module: nn.Module) -> list[Tensor]:
    if not isinstance(module, _BatchNorm):
        return []
    return [tensor for tensor in (module.running_mean, module.running_var) if tensor is not None]
