"""Layers that are called one after the other with the same tensor: the first call computes them all.

Query, key and value are such layers, and gate and up. One call quantises their input once, and goes to the threads
once. The layers stay the modules they are, each with its own weights and state; only who computes a result changes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekern.config import FLOAT
from edgekern.nn.int4_linear import Int4Linear
from edgekern.nn.int8_linear import Int8Linear

_OPS = {
    (layer, count): getattr(torch.ops.edgekern, f"{layer.format}_linear_{count}").default
    for layer in (Int8Linear, Int4Linear)
    for count in (2, 3)
}
LEAST_ROWS = 16
"""Of a call that is worth it. The bookkeeping, in Python, costs what it saves for a single token."""

_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("query", "key", "value"))
"""What modules call layers that have their input in common, in the order of the calls."""


def share_inputs_(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Lets the first of each module's query, key and value, and of its gate and up, compute them all in one call.

    They are known by the names that transformers gives them, ``q_proj``, ``gate_proj``, ``query`` and the like, and
    have to be native, of one format, and to round inputs alike: by each row's own range, or by one static range. Those
    whose activations stay floats quantise no input, and are left as they are.
    Results stay what they were, to the bit. Weights and state stay with each layer; copies, pickles and compiled models
    compute layer by layer, and so do calls of fewer than 16 rows (tokens), for which it does not pay.

    Args:
        model: converted.

    Returns:
        The names of the layers that are computed together from now on.
    """
    found = []
    for path, module in model.named_modules():
        for names in _SIBLINGS:
            found_here = {name: _shareable(module._modules.get(name)) for name in names}
            layers = {name: layer for name, layer in found_here.items() if layer is not None}
            for kind in {_kind(layer): None for layer in layers.values()}:
                alike = {name: layer for name, layer in layers.items() if _kind(layer) == kind}
                if len(set(alike.values())) == len(alike) > 1:
                    SharedInput(list(alike.values()))
                    found.append(tuple(f"{path}.{name}" if path else name for name in alike))
    return tuple(found)


def _shareable(module: nn.Module | None) -> Int8Linear | Int4Linear | None:
    """The module, when it can be computed with others: it quantises its input, and has one packing for all calls."""
    if not isinstance(module, Int8Linear | Int4Linear) or module.shared is not None:
        return None
    alone = module.activations == FLOAT or getattr(module.scheme, "packings", 1) > 1
    return None if alone else module


def _kind(layer: Int8Linear | Int4Linear) -> tuple[object, ...]:
    """Equal for layers that can be computed in one call."""
    alike = (getattr(layer.scheme, "group_size", None), getattr(layer, "input_range", None))
    return type(layer), layer.in_features, layer.activation, *alike


class SharedInput:
    """Two or three layers of one format that are called one after the other, the first one first.

    The first layer's call computes all; each other's call fetches its result, when it is given that very tensor. Given
    another, it computes its own. Where results were not fetched before the first layer is called again, the layers have
    no input in common: they part, and each is on its own from then on.

    A tensor that is changed in place between the calls is noticed, but not under ``torch.inference_mode``, where
    PyTorch keeps no count of changes.

    Attributes:
        least: elements of an input from which on layers ask here; with fewer, they are faster alone.
    """

    def __init__(self, layers: Sequence[Int8Linear | Int4Linear]) -> None:
        self._op = _OPS[type(layers[0]), len(layers)]
        self._layers = tuple(layers)
        self._rest = (*(layer.out_features for layer in layers), layers[0]._activation_code)
        self.least = LEAST_ROWS * layers[0].in_features
        self._state = _State()
        for layer in layers:
            layer.shared = self

    def part(self) -> None:
        """Leaves each layer on its own."""
        self._state = _State()
        for layer in self._layers:
            layer.shared = None

    # This runs at every call, beside ops that take some microseconds: it is written to take few steps.
    def __call__(self, layer: Int8Linear | Int4Linear, x: Tensor) -> Tensor:
        """The result of ``layer``."""
        if torch.compiler.is_compiling():
            return layer.alone(x)
        state = self._state
        if layer is self._layers[0]:
            if state.results:
                self.part()
                return layer.alone(x)
            y, state.results = self._compute(x)
            state.x, state.version = x, _version(x)
            return y
        if state.x is not x or state.version != _version(x):
            return layer.alone(x)
        found = state.results.pop(layer, None)
        if not state.results:
            state.x = None
        return layer.alone(x) if found is None else found

    def _compute(self, x: Tensor) -> tuple[Tensor, dict[nn.Module, Tensor]]:
        """The result of the first layer, and those of the others."""
        if len(self._layers) == 2:
            one, two = self._layers
            y, second = self._op(x, one.packed, two.packed, *self._rest)
            return y, {two: second}
        one, two, three = self._layers
        y, second, third = self._op(x, one.packed, two.packed, three.packed, *self._rest)
        return y, {two: second, three: third}


class _State(threading.local):
    """What one thread has computed and not fetched yet."""

    x: Tensor | None = None
    version = 0
    results: dict[nn.Module, Tensor]

    def __init__(self) -> None:
        self.results = {}


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version
