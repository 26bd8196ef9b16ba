"""Following channels through a model: ``torch.export`` gives the operators, and ``rules`` say what they do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from edgekern.calibration.program import INSIDE, cause_of, program_of
from edgekern.prune.structured.call import Call, Value
from edgekern.prune.structured.labels import Labels, no_labels
from edgekern.prune.structured.rules import result_labels
from edgekern.prune.task import PruneError

_IS_OUTPUT = "the model returns it"


def trace(model: nn.Module, batch: object) -> Labels:
    """What goes together in ``model``, as it runs on this batch.

    Raises:
        PruneError: ``torch.export`` cannot trace it.
    """
    try:
        program = program_of(model, batch)
    except Exception as error:
        raise PruneError(
            f"model: torch.export cannot trace it, so nobody can tell which channels go together: {cause_of(error)}. "
            "Shrink a part of it that can be traced, with example_inputs of that part"
        ) from error
    return _Walk(model, program).labels


class _Walk:
    """One pass over the operators, from inputs to outputs."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram) -> None:
        self.labels = Labels()
        self._values: dict[fx.Node, Value | tuple[Value, ...] | None] = {}
        self._tensors = {
            spec.arg.name: _tensor(model, spec.target)
            for spec in program.graph_signature.input_specs
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target is not None
        }
        for node in program.graph.nodes:
            self._values[node] = self._visit(node)

    def _visit(self, node: fx.Node) -> Value | tuple[Value, ...] | None:
        meta = node.meta.get("val")
        if node.op == "output":
            for value in self._known(node.all_input_nodes):
                self.labels.freeze(value.labels, _IS_OUTPUT)
            return None
        if node.op == "call_function" and node.target.__name__ == "getitem":  # type: ignore[union-attr]
            several = self._values[node.args[0]]  # type: ignore[index]
            return several[node.args[1]] if isinstance(several, tuple) else None  # type: ignore[index]
        if not isinstance(meta, Tensor | tuple | list):
            return None
        if node.op == "call_function":
            return self._result(node, meta)
        return _fresh(meta, self._tensors.get(node.name))

    def _result(self, node: fx.Node, meta: Tensor | tuple[Any, ...] | list[Any]) -> Value | tuple[Value, ...]:
        first = meta if isinstance(meta, Tensor) else meta[0]
        call = Call(_name(node), node.target, self._operands(node), tuple(first.shape), self.labels)  # type: ignore[arg-type]
        results = result_labels(call)
        if isinstance(meta, Tensor):
            assert isinstance(results, Tensor)
            return Value(tuple(meta.shape), results)
        if isinstance(results, Tensor):  # of an operator without a rule
            return tuple(_fresh(item, None) for item in meta)
        return tuple(Value(tuple(item.shape), labels) for item, labels in zip(meta, results, strict=True))

    def _operands(self, node: fx.Node) -> tuple[Any, ...]:
        """Positional arguments in full, nodes replaced by their values."""
        schema = getattr(node.target, "_schema", None)
        if schema is None:  # an operator made of a graph, which has no rule
            return tuple(self._known(node.all_input_nodes))
        operands: list[Any] = list(node.args)
        keywords = dict(node.kwargs)
        for argument in schema.arguments[len(operands) :]:
            if not argument.kwarg_only:
                operands.append(keywords.pop(argument.name, argument.default_value))
        operands += [value for value in keywords.values() if isinstance(value, fx.Node)]
        values: dict[Any, Any] = self._values
        return fx.map_arg(tuple(operands), values.__getitem__)

    def _known(self, nodes: list[fx.Node]) -> Iterator[Value]:
        for node in nodes:
            value = self._values[node]
            yield from value if isinstance(value, tuple) else [value] if value else []


def _fresh(meta: object, tensor: Tensor | None) -> Value:
    shape = tuple(meta.shape) if isinstance(meta, Tensor) else ()
    return Value(shape, no_labels(len(shape)), tensor)


def _tensor(model: nn.Module, target: str) -> Tensor:
    owner, _, name = target.removeprefix(INSIDE).rpartition(".")
    return getattr(model.get_submodule(owner), name)


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", node.target)
    return packet.__name__  # type: ignore[union-attr]
