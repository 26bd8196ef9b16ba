"""Folding a batch normalisation into the layer before it: exact but for the rounding of the new weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekern.fuse.parts import NORMS
from edgekern.nn.layers import Layer, obstacle_in_tensors


def obstacle_in_norm(norm: nn.Module) -> str:
    """Why a normalisation cannot be folded into any layer; empty when it can."""
    assert isinstance(norm, _BatchNorm)
    if type(norm).forward is not _BatchNorm.forward or "forward" in vars(norm):
        return f"{type(norm).__name__} has a forward of its own"
    if norm.running_mean is None or norm.running_var is None:
        return "it keeps no running statistics, so what it does depends on the batch"
    for tensor in _tensors(norm):
        if nn.parameter.is_lazy(tensor) or tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter):
            return "its tensors are no plain numbers yet"
    return ""


def obstacle_in_pair(layer: Layer, norm: nn.Module) -> str:
    """Why this layer cannot take this normalisation; empty when it can."""
    assert isinstance(norm, _BatchNorm)
    if reason := obstacle_in_tensors(layer.linear):
        return reason
    if layer.linear.weight.is_inference():
        return "its weight was made under torch.inference_mode and cannot be changed; clone it"
    if not isinstance(norm, NORMS[layer.kind]):
        return f"a {layer.kind} takes an nn.{NORMS[layer.kind].__name__} only"
    if norm.num_features != layer.shape[0]:
        return f"it has {layer.shape[0]} outputs, where {norm.num_features} are normalised"
    return ""


def folded(layer: nn.Linear | nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias with which ``layer`` alone gives what ``norm`` makes of its results.

    They are computed in float64 and have the dtype of the layer's weight. A weight of zero stays zero.

    Raises:
        ValueError: one would not be finite.
    """
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        weight = layer.weight.double()
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.double()
        bias = -norm.running_mean.double() if layer.bias is None else layer.bias.double() - norm.running_mean.double()
        bias = bias * scale if norm.bias is None else bias * scale + norm.bias.double()
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
        result = weight.to(layer.weight.dtype), bias.to(layer.weight.dtype)
    for name, tensor in zip(("weight", "bias"), result, strict=True):
        if not tensor.isfinite().all():
            raise ValueError(f"the {name} would not be finite in {tensor.dtype}, by its own values or the statistics")
    return result


def _tensors(norm: _BatchNorm) -> list[Tensor]:
    all_ = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    return [tensor for tensor in all_ if tensor is not None]
