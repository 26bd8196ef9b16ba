"""Why units cannot be taken out of a group, although the operators would allow it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekern.prune.structured.groups import Group, Owners


def obstacle(group: Group, owners: Owners) -> str:
    """Why all units stay; empty when some can go."""
    if group.obstacle:
        return group.obstacle
    if group.size == 1:
        return f"its {group.kind} can only go all together"
    for span in group.spans:
        tensor = span.axis.tensor
        for module, path, name in owners[id(tensor)]:
            reason = _of_tensor(tensor) or _of_attention(module)
            if reason:
                return f"{path}.{name}: {reason}" if path else f"{name}: {reason}"
    return ""


def _of_tensor(tensor: Tensor) -> str:
    if type(tensor) not in (nn.Parameter, Tensor):
        return f"a {type(tensor).__name__}, not a plain tensor"
    if tensor.is_meta:
        return "on the meta device, without values"
    if tensor.layout != torch.strided or not tensor.is_floating_point():
        return f"{tensor.dtype} in layout {tensor.layout}, where dense floats are expected"
    return ""


def _of_attention(module: nn.Module) -> str:
    if not isinstance(module, nn.MultiheadAttention):
        return ""
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        return "only plain self-attention can lose heads, with one in_proj_weight and without bias_k and add_zero_attn"
    if not module.__class__.__module__.startswith(("torch.nn.", "edgekern.")):
        return f"{type(module).__name__} has code of its own, which may count on its number of heads"
    return ""
