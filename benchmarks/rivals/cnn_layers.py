"""Where a network's time goes: its layers, what each multiplies, and the shortest time each took in many calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

RUNS = 50


class LayerFacts(NamedTuple):
    """One convolution or linear layer, at one input."""

    kind: str  # "stem", "1x1", "3x3", "depthwise", "linear", ...
    shape: str  # "16x112x112 to 96x112x112", without the batch
    macs: int  # multiply-adds of a call, zeros at the edges among them


def kind_of(layer: Any) -> str:
    """The kind of a convolution or linear layer, ours or torch's; "" for every other module."""
    if hasattr(layer, "in_features") and hasattr(layer, "out_features"):
        return "linear"
    if not hasattr(layer, "in_channels") or not hasattr(layer, "kernel_size"):
        return ""
    if layer.in_channels == 3:
        return "stem"
    if layer.groups == layer.in_channels > 1:
        return "depthwise"
    return "x".join(map(str, layer.kernel_size))


def layers_of(network: nn.Module) -> dict[str, Any]:
    """Every layer that has a kind, by name."""
    return {name: module for name, module in network.named_modules() if kind_of(module)}


def describe_layers(network: nn.Module, call: Callable[[], Any]) -> dict[str, LayerFacts]:
    """The layers that `call`, which runs the network, passes through, in that order."""
    found: dict[str, LayerFacts] = {}

    def note(name: str, layer: Any) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            shape = f"{_sizes(inputs[0])} to {_sizes(output)}"
            found[name] = LayerFacts(kind_of(layer), shape, output.numel() * _macs_of_one(layer))

        return hook

    handles = [layer.register_forward_hook(note(name, layer)) for name, layer in layers_of(network).items()]
    with _removed_after(handles):
        call()
    return found


def time_layers(network: nn.Module, call: Callable[[], Any], runs: int = RUNS) -> tuple[dict[str, float], float]:
    """(seconds of each layer by name, of all that is no layer), each the shortest of `runs` calls.

    What is no layer is what a call takes beyond its own layers, so that a disturbed layer does not count as that. The
    hooks are in it, with about a microsecond a layer.
    """
    clock = time.perf_counter
    shortest: dict[str, float] = {}
    began: dict[str, float] = {}
    of_this_call: list[float] = []

    def start(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            began[name] = clock()

        return hook

    def stop(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            seconds = clock() - began[name]
            of_this_call.append(seconds)
            shortest[name] = min(shortest.get(name, seconds), seconds)

        return hook

    handles = []
    for name, layer in layers_of(network).items():
        handles += [layer.register_forward_pre_hook(start(name)), layer.register_forward_hook(stop(name))]
    other = float("inf")
    with _removed_after(handles):
        for _ in range(runs):
            of_this_call.clear()
            start_of_call = clock()
            call()
            other = min(other, clock() - start_of_call - sum(of_this_call))
    return shortest, other


def _macs_of_one(layer: Any) -> int:
    """Of one number that comes out."""
    if kind_of(layer) == "linear":
        return layer.in_features
    height, width = layer.kernel_size
    return height * width * layer.in_channels // layer.groups


def _sizes(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape[1:]))


@contextmanager
def _removed_after(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
