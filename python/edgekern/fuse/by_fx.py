"""Calls of a model's parts, as ``torch.fx`` traces them: for any input, without running anything."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from torch import fx, nn
from torch.utils._pytree import tree_leaves

from edgekern.calibration.observe import arguments, inference
from edgekern.calibration.program import cause_of
from edgekern.fuse.calls import BY_FX, OWN_ATTRIBUTES, Call, Calls, undisturbed
from edgekern.fuse.parts import Parts

_PLAIN = (type(None), bool, int, float, str)
OWN_CODE = "which has code of its own for what it holds"
"""In place of a cause: nobody has tried to trace it."""


class NotTraceable(Exception):
    """Why ``torch.fx`` cannot follow a model's own forward."""


def calls_by_fx(model: nn.Module, parts: Parts, batch: object | None) -> tuple[Calls, dict[nn.Module, str]]:
    """The calls, and the modules around parts that were called but not looked into, each with the cause.

    Optional arguments of the model are as in ``batch``. Without one they are left out, and the model is traced again
    with each that is true or false by default turned round. It is also traced with any values of them, where that
    works. What is done then has to be right for all of these.

    Raises:
        NotTraceable: the model itself decides by the values or sizes of what it is given, or is called in a way that
            tracing does not know.
    """
    if "forward" in vars(model):
        raise NotTraceable("its forward was replaced by another")
    first, *others = ways(model, batch)
    calls, closed = _trace(model, parts, first)
    for way in others:
        with suppress(NotTraceable):
            more_calls, more_closed = _trace(model, parts, way)
            calls.update(more_calls)
            closed = more_closed | closed
    return calls, closed


def _trace(model: nn.Module, parts: Parts, given: dict[str, Any] | None) -> tuple[Calls, dict[nn.Module, str]]:
    graph, opaque, kept = traced(model, parts, given, {})
    closed = {m: opaque.get(m, OWN_CODE) for m in _called(model, graph) if _holds_parts(m, parts)}
    return _calls(model, graph, parts, kept), closed


def traced(
    model: nn.Module, parts: Parts, given: dict[str, Any] | None, closed: dict[nn.Module, str]
) -> tuple[fx.Graph, dict[nn.Module, str], set[fx.Node]]:
    """The model's graph, the modules that tracing did not look into, with the cause, and results kept in attributes.

    The model is traced anew each time that a module is found which cannot be looked into; that one is then left closed,
    as those in ``closed`` are from the start.

    Raises:
        NotTraceable: the model's own forward cannot be followed.
    """
    opaque = dict(closed)
    while True:
        tracer = _Tracer(parts, opaque)
        try:
            with inference(model), undisturbed(model):
                graph = tracer.trace(model, given)
                return graph, opaque, set(_kept(model))
        except _Inside as failure:
            opaque[failure.module] = failure.cause
        except Exception as error:
            raise NotTraceable(cause_of(error)) from error


class _Inside(Exception):
    """The forward of a module, called somewhere in the model, cannot be traced."""

    def __init__(self, module: nn.Module, cause: str) -> None:
        super().__init__(cause)
        self.module, self.cause = module, cause


class _Tracer(fx.Tracer):
    """Looks into every module but the parts, PyTorch's own, ours, and those that are known not to be traceable."""

    proxy_buffer_attributes = True  # so that a norm's statistics which other code reads show

    def __init__(self, parts: Parts, opaque: dict[nn.Module, str]) -> None:
        super().__init__(param_shapes_constant=True)
        self._parts, self._opaque = parts, opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = type(m).__module__.startswith("edgekern.")
        return ours or m in self._parts or m in self._opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if m not in (self.submodule_paths or {}):  # made on the way, as slices of sequences are
            return m.forward(*args, **kwargs)
        if self.is_leaf_module(m, ""):
            return super().call_module(m, forward, args, kwargs)
        try:
            return super().call_module(m, m.forward, args, kwargs)
        except _Inside:
            raise
        except Exception as error:
            raise _Inside(m, cause_of(error)) from error


def ways(model: nn.Module, batch: object | None) -> list[dict[str, Any] | None]:
    """Values of optional arguments to trace with; None for any values of all of them."""
    signature = inspect.signature(model.forward)
    values = {each.name: each.default for each in signature.parameters.values() if each.default is not each.empty}
    if not values:
        return [None]
    flags = [name for name, value in values.items() if isinstance(value, bool)]
    if batch is not None:
        args, kwargs = arguments(batch)
        given = signature.bind_partial(*args, **kwargs).arguments
        values, flags = {name: given.get(name, value) for name, value in values.items()}, []
    plain = {name: value for name, value in values.items() if isinstance(value, _PLAIN)}
    return [plain, *({**plain, flag: not plain[flag]} for flag in flags), None]


def _kept(model: nn.Module) -> Iterator[fx.Node]:
    """Results that the model's code has put into attributes while it was traced."""
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in OWN_ATTRIBUTES:
                yield from (leaf.node for leaf in tree_leaves(value) if isinstance(leaf, fx.Proxy))


def _called(model: nn.Module, graph: fx.Graph) -> set[nn.Module]:
    return {model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}


def _holds_parts(module: nn.Module, parts: Parts) -> bool:
    return any(inner in parts for inner in module.modules() if inner is not module)


def _calls(model: nn.Module, graph: fx.Graph, parts: Parts, kept: set[fx.Node]) -> Calls:
    made = {
        node: Call(model.get_submodule(str(node.target)), str(node.target), BY_FX)
        for node in graph.nodes
        if node.op == "call_module"
    }
    calls = Calls()
    for node, call in made.items():
        call.readers += [made.get(user) or _describe(user) for user in node.users]
        call.readers += ["an attribute that keeps it"] if node in kept else []
        calls.add(call)
    for node in graph.nodes:
        if node.op == "get_attr":
            owner, _, tensor = str(node.target).rpartition(".")
            module = model.get_submodule(owner)
            if module in parts:
                calls.obstacles[module] = f"other code of the model reads its {tensor}"
    return calls


def _describe(node: fx.Node) -> str:
    if node.op == "output":
        return "the model's result"
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
