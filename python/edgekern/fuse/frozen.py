"""``freeze``: regions of converted convolutions become one native call each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from edgekern import ops
from edgekern.calibration.observe import arguments, inference
from edgekern.calibration.program import call_model, cause_of
from edgekern.fuse.apply import FuseError
from edgekern.fuse.by_fx import NotTraceable, traced, ways
from edgekern.fuse.parts import Parts, parts_of
from edgekern.fuse.regions import Nodes, Region
from edgekern.nn import NativeConv2d
from edgekern.nn.int8_program import Int8Program
from edgekern.plan import check_model
from edgekern.table import Table


@dataclass(frozen=True)
class FreezeRow:
    """Where a converted convolution runs."""

    name: str
    region: str
    """The module of the frozen model that runs it; empty where it runs by itself."""
    reason: str
    """Why it runs by itself; empty otherwise."""


@dataclass(frozen=True)
class FreezeReport(Table[FreezeRow]):
    """One row for each converted convolution. Prints as a table, with rich too."""

    difference: float = 0.0
    """How far the results for ``example_inputs`` are from the model's: the distance of all numbers, in proportion. 0
    but with ``uint8_sums``."""

    _HEADER: ClassVar[tuple[str, ...]] = ("Layer", "Runs in", "Why by itself")

    @property
    def frozen(self) -> tuple[FreezeRow, ...]:
        """Those that run in a region."""
        return tuple(row for row in self.rows if row.region)

    def _cells(self) -> list[list[str]]:
        return [[row.name, row.region, row.reason] for row in self.rows]

    def _totals(self) -> str:
        regions = len({row.region for row in self.frozen})
        counted = f"{regions} region{'' if regions == 1 else 's'}"
        text = f"{len(self.frozen)} of {len(self.rows)} converted convolutions run in {counted}"
        return text if self.difference == 0 else f"{text}; results are {self.difference:.1%} from the model's"

    def _is_dim(self, index: int) -> bool:
        return not self.rows[index].region


def freeze(model: nn.Module, example_inputs: Any, *, uint8_sums: bool = False) -> fx.GraphModule:
    """A model for inference alone, in which regions of converted convolutions are one native call each.

    A layer's call costs some microseconds of Python, and for small images that is as much as its arithmetic. Here the
    model is traced by ``torch.fx``, and convolutions with static ranges, sums of images, ReLU and ReLU6 behind these,
    and max pooling, as far as they have one input and one result together, are run by one op, with all that passes
    between them in memory that is used again and again. Everything else is called as before. Results are those of the
    model, bit for bit.

    The model stays as it was, and shares its weights and its other modules with the new one; do not convert or link it
    again while that is in use. What the new model does is settled by ``example_inputs`` where its code asks more of
    its arguments than being tensors; images of other sizes go on to work, as long as sums are of images of one size.
    Hooks of the model itself do not run; modules in it that have hooks are left as they are.

    Args:
        model: fused, converted with ``Int8(activations="static")``, ``Int4(activations="static")`` or both, and best
            linked too; in eval mode.
        example_inputs: one batch: a mapping is passed as keyword arguments, a tuple or list as positional ones,
            anything else as the only one. Both models are run on it, and their results compared.
        uint8_sums: hand on as uint8 all that convolutions with one range read, from sums and to sums too, through max
            pooling, and behind an activation that several layers share. That is what other runtimes do: less memory is
            moved, and results are a few roundings from the model's. ``report.difference`` says how far. Where images
            are uint8 on their way, results are in channels_last.

    Returns:
        A ``torch.fx.GraphModule``. Its ``report`` is a :class:`FreezeReport`: which layers run in which region.

    Raises:
        TypeError: not a module.
        FuseError: nothing that could be frozen, a model in training mode, one that ``torch.fx`` cannot trace or that
            does not run on ``example_inputs``, or results that are not the same bits; or torch before 2.10.
    """
    check_model(model, "freeze", FuseError)
    parts = parts_of(model)
    convs = [module for module in parts.layers if isinstance(module, NativeConv2d)]
    _check(model, convs)
    graph, closed = _traced(model, parts, example_inputs)
    graph_module = fx.GraphModule(_modules_of(model, graph), graph)
    graph_module.training = False
    values = _values(graph_module, example_inputs)
    nodes = Nodes(graph, dict(graph_module.named_modules(remove_duplicate=False)), parts, values)
    regions = nodes.regions()
    rows = tuple(_rows(model, parts, convs, nodes, regions, closed))
    if not regions:
        reasons = sorted({row.reason for row in rows})
        raise FuseError(f"model: none of its converted convolutions can be frozen: {'; '.join(reasons)}")
    programs = [_program(nodes, region) for region in regions]
    stands_for: dict[fx.Node, fx.Node] = {}
    for index, (region, program) in enumerate(zip(regions, programs, strict=True)):
        _replace(graph_module, region, program, _region_name(index), stands_for)
    graph_module.graph.lint()
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    before = [each.clone() for each in call_model(model, example_inputs)]
    _compare(before, call_model(graph_module, example_inputs))
    difference = 0.0
    if uint8_sums:
        for index, program in enumerate(programs):
            setattr(graph_module, _region_name(index), program.with_uint8_sums())
        difference = _distance(before, call_model(graph_module, example_inputs))
    vars(graph_module)["report"] = FreezeReport(rows, difference)
    return graph_module


def _check(model: nn.Module, convs: list[NativeConv2d]) -> None:
    if not ops.has_programs:
        raise FuseError(f"freeze needs torch >= 2.10, and this is {torch.__version__}")
    if not any(conv.input_range is not None for conv in convs):
        found = "converted convolutions find the range of each image" if convs else "no converted convolution"
        raise FuseError(
            f"model: expected converted convolutions with static ranges, found {found}; "
            "convert_(model, Int8(activations='static'), data=batches) makes them"
        )
    if model.training:
        raise FuseError("model: expected it in eval mode, got training mode; call model.eval() first")


def _traced(model: nn.Module, parts: Parts, batch: Any) -> tuple[fx.Graph, dict[nn.Module, str]]:
    hooks = {
        module: "has hooks"
        for module in model.modules()
        if module is not model and (module._forward_hooks or module._forward_pre_hooks)
    }
    if "forward" in vars(model):
        raise FuseError(
            "model: its forward was replaced by another, which torch.fx cannot trace; freeze it before that"
        )
    try:
        graph, closed, kept = traced(model, parts, ways(model, batch)[0], hooks)
    except NotTraceable as failure:
        raise FuseError(
            f"model: torch.fx cannot trace it ({failure}); freeze the module in it that holds the convolutions, and "
            "put the result in its place"
        ) from failure
    if kept:
        raise FuseError(
            "model: its code keeps results in attributes, which a frozen model would not do; freeze the module in it "
            "that holds the convolutions, and put the result in its place"
        )
    graph._tracer_cls = None  # what traced it is not for whoever loads or copies it
    for node in graph.nodes:
        node.type = None  # an annotation may be a name that only the model's own file knows
    return graph, closed


def _modules_of(model: nn.Module, graph: fx.Graph) -> dict[str, Any]:
    """What the graph names, the very objects."""
    found: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            value: Any = model
            for name in str(node.target).split("."):
                value = getattr(value, name)
            found[str(node.target)] = value
    return found


class _Recorder(fx.Interpreter):
    """Runs a graph and notes the tensors that its nodes give."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op != "output":
            self.values[n] = result.detach().to("meta")
        return result


def _values(module: fx.GraphModule, batch: Any) -> dict[fx.Node, Tensor]:
    args, kwargs = arguments(batch)
    recorder = _Recorder(module)
    names = [node.target for node in module.graph.nodes if node.op == "placeholder"]
    try:
        with inference(module):
            given = dict(zip(names, args, strict=False)) | kwargs
            defaults = {
                node.target: node.args[0] for node in module.graph.nodes if node.op == "placeholder" and node.args
            }
            recorder.run(*({**defaults, **given}[name] for name in names))
    except Exception as error:
        raise FuseError(f"example_inputs: the model does not run on them: {cause_of(error)}") from error
    return recorder.values


def _program(nodes: Nodes, region: Region) -> Int8Program:
    value = nodes.values[region.source]
    return Int8Program(nodes.steps(region), value.shape[-3], value.dtype == torch.uint8).eval()


def _replace(
    module: fx.GraphModule, region: Region, program: Int8Program, name: str, stands_for: dict[fx.Node, fx.Node]
) -> None:
    """One call in place of a region; ``stands_for`` has the calls that were put in place of earlier ones' results."""
    module.add_submodule(name, program)
    last = region.nodes[-1]
    with module.graph.inserting_before(last):
        new = module.graph.call_module(name, (stands_for.get(region.source, region.source),))
    last.replace_all_uses_with(new)
    stands_for[last] = new
    for node in reversed(region.nodes):
        module.graph.erase_node(node)


def _region_name(index: int) -> str:
    return f"region_{index}"


def _rows(
    model: nn.Module,
    parts: Parts,
    convs: list[NativeConv2d],
    nodes: Nodes,
    regions: list[Region],
    closed: dict[nn.Module, str],
) -> Iterator[FreezeRow]:
    called: dict[nn.Module, list[fx.Node]] = {}
    for node in nodes.graph.nodes:
        if (module := nodes.module(node)) is not None:
            called.setdefault(module, []).append(node)
    region_of = {node: _region_name(i) for i, region in enumerate(regions) for node in region.nodes}
    names = {module: name for name, module in model.named_modules()}
    for conv in convs:
        calls = called.get(conv, [])
        found = [region_of[node] for node in calls if node in region_of]
        alone = [
            nodes.reasons.get(node, "what it reads is changed in place") for node in calls if node not in region_of
        ]
        around = [
            f"it is inside of {names[m]!r}, which {_said(why)}" for m, why in closed.items() if conv in set(m.modules())
        ]
        reason = next(iter([*alone, *(around if not calls else [])]), "" if calls else "the model never calls it")
        yield FreezeRow(parts.name(conv), " ".join(dict.fromkeys(found)), reason)


def _said(cause: str) -> str:
    return cause if cause == "has hooks" else f"torch.fx cannot trace ({cause})"


def _compare(before: list[Tensor], after: list[Tensor]) -> None:
    same = len(before) == len(after) and all(
        a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
        for a, b in zip(before, after, strict=True)
    )
    if not same:
        raise FuseError(
            "example_inputs: the frozen model would give other results, so something in it happens in a way that "
            "tracing does not show; freeze parts of it one by one to find which"
        )


def _distance(before: list[Tensor], after: list[Tensor]) -> float:
    a, b = (torch.cat([each.double().flatten() for each in results]) for results in (before, after))
    length = float(a.norm())
    return float((a - b).norm()) / length if length > 0 else float((a - b).norm())
