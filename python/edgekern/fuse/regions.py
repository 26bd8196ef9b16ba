"""Regions of a traced model that one native call can run: what each node is, and which of them go together."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgekern.fuse.obstacles import hands_on, has_hooks
from edgekern.fuse.parts import Parts
from edgekern.nn import NATIVE_CONVS, NativeConv2d
from edgekern.nn.int8_steps import ADD, MAX_POOL, Step

CONV, SUM, POOL, ACTIVATION, IDENTITY = "convolution", "sum", "pooling", "activation", "identity"

_SUMS = (operator.add, operator.iadd, torch.add)
_SUM_METHODS = ("add", "add_", "__iadd__")
_ACTIVATIONS = {F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", F.relu6: "relu6"}
_ACTIVATION_METHODS = {"relu": "relu", "relu_": "relu"}
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem, torch.relu_)


@dataclass
class Region:
    """Nodes that one call runs: they read ``source`` alone, and all but the last are read by each other alone."""

    source: fx.Node
    nodes: list[fx.Node]


@dataclass
class Nodes:
    """What the nodes of a graph are.

    Attributes:
        kinds: of those that a region may hold.
        reasons: why others, that look like it, cannot be held.
        activation_of: what follows a convolution without an activation of its own, or a sum, and becomes part of it.
    """

    graph: fx.Graph
    modules: Mapping[str, nn.Module]
    parts: Parts
    values: Mapping[fx.Node, Tensor]
    """What each node gave for the example, on the meta device; those that gave a tensor."""
    kinds: dict[fx.Node, str] = field(default_factory=dict)
    reasons: dict[fx.Node, str] = field(default_factory=dict)
    activation_of: dict[fx.Node, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.graph.nodes:
            kind, reason = self._kind(node)
            if (
                kind
                and (changed := self._changed_in_place(node)) is not None
                and not self._is_sole_reader(node, changed)
            ):
                kind, reason = "", "it changes in place what something else reads"
            if kind == ACTIVATION and not self._becomes_part(node):
                kind, reason = "", "an activation that follows neither a sum nor a convolution without one"
            if kind:
                self.kinds[node] = kind
            elif reason:
                self.reasons[node] = reason

    def regions(self) -> list[Region]:
        """Largest regions that hold a convolution, from the first node on; none overlap."""
        found: list[Region] = []
        taken: set[fx.Node] = set()
        for source in self.graph.nodes:
            if source in self.values and (nodes := self._largest(source, taken)):
                found.append(Region(source, nodes))
                taken |= set(nodes)
        return found

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def root(self, node: fx.Node) -> fx.Node:
        """Where a value comes from, behind modules that hand it on."""
        while self.kinds.get(node) == IDENTITY:
            node = node.all_input_nodes[0]
        return node

    # ------------------------------------------------------------------------------------------ what a node is

    def _kind(self, node: fx.Node) -> tuple[str, str]:
        """The kind of a node and nothing, or nothing and why it is of none."""
        module = self.module(node)
        if isinstance(module, NativeConv2d):
            reason = _obstacle_in_convolution(module) or _obstacle_in_arguments(node)
            return ("", reason) if reason else (CONV, "")
        if node not in self.values or _obstacle_in_arguments(node, 2 if self._adds(node) else 1):
            return "", ""
        if self._adds(node):
            reason = self._obstacle_in_sum(node)
            return ("", reason) if reason else (SUM, "")
        if module is not None and (hands_on(module) or _is_idle_dropout(module)):
            return IDENTITY, ""
        if self._activation(node):
            return ACTIVATION, ""
        return (POOL, "") if module is not None and _is_simple_pooling(module) else ("", "")

    def _adds(self, node: fx.Node) -> bool:
        by_method = node.op == "call_method" and node.target in _SUM_METHODS
        return by_method or (node.op == "call_function" and node.target in _SUMS)

    def _obstacle_in_sum(self, node: fx.Node) -> str:
        first, second = (self.values.get(each) for each in node.args if isinstance(each, fx.Node))
        if first is None or second is None or first.shape != second.shape or first.dtype != second.dtype:
            return "a sum of images of different shapes or dtypes"
        floats = (torch.float32, torch.bfloat16, torch.float16)
        return "" if first.dtype in floats and first.dim() in (3, 4) else "a sum of something else than float images"

    def _activation(self, node: fx.Node) -> str:
        module = self.module(node)
        if module is not None:
            name = "" if has_hooks(module) else self.parts.activations.get(module, "")
            return name if name in ("relu", "relu6") else ""
        if node.op == "call_method":
            return _ACTIVATION_METHODS.get(str(node.target), "")
        return _ACTIVATIONS.get(node.target, "") if callable(node.target) else ""

    def _becomes_part(self, node: fx.Node) -> bool:
        source = self.root(node.all_input_nodes[0])
        kind = self.kinds.get(source)
        conv = self.module(source)
        plain = isinstance(conv, NativeConv2d) and conv.activation == "none" and conv.output_range is None
        if not (kind == SUM or (kind == CONV and plain)) or not self._is_sole_reader(node, node.all_input_nodes[0]):
            return False
        self.activation_of[source] = self._activation(node)
        return True

    # -------------------------------------------------------------------------------------- what is changed in place

    def _changed_in_place(self, node: fx.Node) -> fx.Node | None:
        """What a node may change."""
        if not node.args or not isinstance(node.args[0], fx.Node):
            return None
        module, target = self.module(node), node.target
        changes = getattr(module, "inplace", False) is True or node.kwargs.get("inplace") is True
        if node.op == "call_method" and isinstance(target, str):
            changes |= (target.endswith("_") and not target.endswith("__")) or target.startswith("__i")
        if node.op == "call_function":
            changes |= target in _IN_PLACE or getattr(target, "__name__", "").endswith("_")
        return node.args[0] if changes else None

    def _is_sole_reader(self, reader: fx.Node, value: fx.Node) -> bool:
        """That nothing else reads a value, nor what it is handed on from."""
        while set(value.users) == {reader}:
            if self.kinds.get(value) != IDENTITY:
                return True
            reader, value = value, value.all_input_nodes[0]
        return False

    def _is_changed(self, value: fx.Node) -> bool:
        same, waiting = set(), [self.root(value)]
        while waiting:
            node = waiting.pop()
            same.add(node)
            waiting += [user for user in node.users if self.kinds.get(user) == IDENTITY]
        return any(self._changed_in_place(user) in same for node in same for user in node.users)

    # ---------------------------------------------------------------------------------------- which go together

    def _largest(self, source: fx.Node, taken: set[fx.Node]) -> list[fx.Node]:
        """The largest region that reads this one value alone."""
        if self._is_changed(source):
            return []
        within: list[fx.Node] = []
        known = {source}
        for node in self.graph.nodes:
            if (
                node in self.kinds
                and node not in taken
                and node not in known
                and known.issuperset(node.all_input_nodes)
            ):
                within.append(node)
                known.add(node)
        for last in reversed(within):
            nodes = _leading_to(last, within)
            inside = set(nodes)
            alone = all(inside.issuperset(node.users) for node in nodes if node is not last)
            if alone and any(self.kinds[node] == CONV for node in nodes):
                return nodes
        return []

    def steps(self, region: Region) -> list[Step]:
        """A region as a program."""
        number = {region.source: 0}
        steps: list[Step] = []
        for node in region.nodes:
            kind, inputs = self.kinds[node], [number[each] for each in node.args if isinstance(each, fx.Node)]
            if kind in (IDENTITY, ACTIVATION):
                number[node] = inputs[0]
                continue
            module, activation = self.module(node), self.activation_of.get(node, "none")
            if isinstance(module, NativeConv2d):
                own = module.activation
                steps.append(Step.convolution(module, inputs[0], activation if own == "none" else own))
            elif isinstance(module, nn.MaxPool2d):
                sizes = (module.kernel_size, module.stride, module.dilation)
                kernel, stride, dilation = (_pair(size) for size in sizes)
                high, wide = _pair(module.padding)
                pads = (wide, wide, high, high)
                steps.append(Step(MAX_POOL, inputs[0], kernel=kernel, stride=stride, dilation=dilation, pads=pads))
            else:
                steps.append(Step(ADD, inputs[0], inputs[1], activation=activation))
            number[node] = len(steps)
        return steps


def _leading_to(last: fx.Node, within: list[fx.Node]) -> list[fx.Node]:
    needed = {last}
    for node in reversed(within):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [node for node in within if node in needed]


def _obstacle_in_convolution(conv: NativeConv2d) -> str:
    if not conv.activations:
        return "its activations stay floats"
    if conv.input_range is None:
        return "it finds the range of each image, having no static one"
    if has_hooks(conv):
        return "it has hooks, which would not run"
    if conv.padding_mode != "zeros":
        return f"it pads by {conv.padding_mode!r}"
    if type(conv) not in NATIVE_CONVS.values() or "forward" in vars(conv):
        return "it has a forward of its own"
    return "" if conv.packed.numel() else "it has no weights yet"


def _obstacle_in_arguments(node: fx.Node, count: int = 1) -> str:
    known = {key for key, value in node.kwargs.items() if key == "inplace" and isinstance(value, bool)}
    plain = len(node.args) == count and all(isinstance(each, fx.Node) for each in node.args)
    return "" if plain and known == set(node.kwargs) else "it is called with other arguments than images"


def _is_idle_dropout(module: nn.Module) -> bool:
    return type(module) in (nn.Dropout, nn.Dropout2d) and not module.training and not has_hooks(module)


def _is_simple_pooling(module: nn.Module) -> bool:
    simple = type(module) is nn.MaxPool2d and not module.return_indices and not module.ceil_mode
    return simple and not has_hooks(module) and "forward" not in vars(module)


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
