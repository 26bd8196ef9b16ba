"""Rules of the operators that are layers: those with parameters of their own."""

from __future__ import annotations

from torch import Tensor

from edgekern.prune.structured.call import Call, Value, freeze_value, meets_fixed, only_along, unknown
from edgekern.prune.structured.labels import NONE, along


def linear(call: Call) -> Tensor:
    """[..., in] times [out, in]."""
    x, weight, bias = call.args[0], call.args[1], call.arg(2)
    if weight.parameter is None or (bias is not None and bias.parameter is None):
        return unknown(call)
    _consume(call, x, len(x.shape) - 1, weight.parameter, 1)
    return _produce(call, weight.parameter, 0, bias, len(call.shape) - 1)


def transposed_linear(call: Call) -> Tensor:
    """A bias plus [rows, in] times [in, out]."""
    bias, x, weight = call.args[:3]
    if weight.parameter is None or bias.parameter is None:
        return unknown(call)
    _consume(call, x, 1, weight.parameter, 0)
    return _produce(call, weight.parameter, 1, bias, 1)


def convolution(call: Call) -> Tensor:
    """[N, in, ...] with [out, in / groups, ...]; grouped only when each input channel is its own group."""
    x, weight, bias = call.args[0], call.args[1], call.arg(2)
    groups = call.arg(6, 1)
    if weight.parameter is None or (bias is not None and bias.parameter is None):
        return unknown(call)
    kernel = weight.parameter
    channels = len(x.shape) - kernel.ndim + 1
    if groups == 1:
        _consume(call, x, channels, kernel, 1)
    elif kernel.shape[1] == 1:
        own = call.labels.axis(kernel, 0).labels
        inputs = only_along(call, x, channels).repeat_interleave(len(own) // groups)
        call.labels.tie(inputs, own, meets_fixed(call))
    else:
        reason = f"a convolution in {groups} groups keeps its channels"
        freeze_value(call.labels, x, reason)
        call.labels.freeze(call.labels.axis(kernel, 0).labels, reason)
    return _produce(call, kernel, 0, bias, channels)


def normalised(call: Call) -> Tensor:
    """Batch norm: each channel by itself."""
    x = call.args[0]
    channels = only_along(call, x, 1)
    for value in call.args[1:5]:
        if isinstance(value, Value) and value.parameter is not None:
            call.labels.tie(channels, call.labels.axis(value.parameter, 0).labels, meets_fixed(call))
    return along(channels, 1, len(x.shape))


def normalised_together(call: Call) -> Tensor:
    """Layer norm and RMS norm: over the last dimension, which the channels then share."""
    x, shape = call.args[0], call.args[1]
    if len(shape) > 1:
        return unknown(call)
    channels = only_along(call, x, len(x.shape) - 1)
    for value in call.args[2:4]:
        if isinstance(value, Value) and value.parameter is not None:
            call.labels.tie(channels, call.labels.axis(value.parameter, 0).labels, meets_fixed(call))
    call.labels.mixed.append((channels[channels != NONE], call.name))
    return along(channels, len(x.shape) - 1, len(x.shape))


def embedding(call: Call) -> Tensor:
    """Rows of [words, width]."""
    weight = call.args[0].parameter
    return unknown(call) if weight is None else along(call.labels.axis(weight, 1).labels, -1, len(call.shape))


def prelu(call: Call) -> Tensor:
    """A slope for each channel, or one for all."""
    x, slope = call.args[0], call.args[1].parameter
    if slope is None:
        return unknown(call)
    if slope.numel() > 1:
        call.labels.tie(only_along(call, x, 1), call.labels.axis(slope, 0).labels, meets_fixed(call))
    return x.labels


def _consume(call: Call, x: Value, dim: int, weight: Tensor, inputs: int) -> None:
    axis = call.labels.axis(weight, inputs)
    call.labels.tie(only_along(call, x, dim), axis.labels, meets_fixed(call))
    call.labels.consumers.append(axis)


def _produce(call: Call, weight: Tensor, outputs: int, bias: Value | None, dim: int) -> Tensor:
    axis = call.labels.axis(weight, outputs)
    call.labels.producers.append(axis)
    if bias is not None and bias.parameter is not None:
        call.labels.tie(axis.labels, call.labels.axis(bias.parameter, 0).labels, meets_fixed(call))
    return along(axis.labels, dim, len(call.shape))
