"""Whether a training computes in bfloat16."""

from __future__ import annotations

import torch

_MULTIPLIES = ("avx512_bf16", "amx_bf16", "bf16")  # the last is ARM's


def autocast_dtype(device: str, wanted: str | None) -> torch.dtype | None:
    """What ``FitConfig.autocast`` comes to on a type of device; None: nothing is cast."""
    if wanted == "bf16" or (wanted == "auto" and multiplies_bfloat16(device)):
        return torch.bfloat16
    return None


def multiplies_bfloat16(device: str) -> bool:
    """Whether a type of device has instructions for it; False where PyTorch is too old to tell."""
    if device == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return any(capabilities.get(name, False) for name in _MULTIPLIES)
    told = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return told is not None and bool(told())
