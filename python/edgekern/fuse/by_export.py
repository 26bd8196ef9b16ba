"""Calls of a model's parts, as ``torch.export`` traces them for one input."""

from __future__ import annotations

from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from edgekern.calibration.program import INSIDE, cause_of, program_of
from edgekern.fuse.calls import BY_EXPORT, Call, Calls, undisturbed
from edgekern.fuse.parts import Parts


class NotExportable(Exception):
    """Why ``torch.export`` cannot trace a model."""


def calls_by_export(model: nn.Module, parts: Parts, batch: object) -> Calls:
    """The calls that a model makes for this batch.

    Raises:
        NotExportable: it cannot be traced.
    """
    try:
        with undisturbed(model):
            program = program_of(model, batch)
    except Exception as error:
        raise NotExportable(cause_of(error)) from error
    return _Grouping(model, parts, program).calls


class _Grouping:
    """Puts the operators of one call of a part together again."""

    def __init__(self, model: nn.Module, parts: Parts, program: ExportedProgram) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._parts = parts
        self._made: dict[str, Call] = {}
        self._call_of: dict[fx.Node, Call] = {}
        self.calls = Calls()
        for node in program.graph.nodes:
            self._place(node)
        for node in program.graph.nodes:
            if call := self._call_of.get(node):
                for user in node.users:
                    self._add_reader(call, user)
        for call in self._made.values():
            self.calls.add(call)
        self._find_exposed(program)

    def _place(self, node: fx.Node) -> None:
        """Each call of a module has a key of its own among those of the modules that a node stands in."""
        for key, (path, _) in reversed((node.meta.get("nn_module_stack") or {}).items()):
            name = path.partition("@")[0].removeprefix(INSIDE)
            module = self._modules.get(name)
            if module is not None and module in self._parts:
                self._call_of[node] = self._made.setdefault(key, Call(module, name, BY_EXPORT))
                return

    def _add_reader(self, call: Call, user: fx.Node) -> None:
        reader = self._call_of.get(user) or _describe(user)
        if reader is not call and reader not in call.readers:
            call.readers.append(reader)

    def _find_exposed(self, program: ExportedProgram) -> None:
        tensors = {
            spec.arg.name: spec.target.removeprefix(INSIDE)
            for spec in program.graph_signature.input_specs
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target is not None
        }
        for node in program.graph.nodes:
            owner, _, tensor = tensors.get(node.name, "").rpartition(".")
            module = self._modules[owner]
            for user in node.users if node.name in tensors and module in self._parts else ():
                call = self._call_of.get(user)
                if call is None or call.module is not module:
                    self.calls.obstacles[module] = f"other code of the model reads its {tensor}"


def _describe(node: fx.Node) -> str:
    if node.op == "output":
        return "the model's result"
    packet = getattr(node.target, "overloadpacket", node.target)
    return getattr(packet, "__name__", str(packet))
