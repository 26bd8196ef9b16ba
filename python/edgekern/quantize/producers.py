"""Which layers of a model are given the same tensor, and what may have made it.

Both are seen while the model runs once; no class, name or architecture is known here. Whether a producer can take a
division that the layers' weights make up for is another question, and is tried: see ``quantize/trial.py``.
"""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.calibration.observe import arguments, inference, version_of
from edgekern.nn.layers import tensor_identity

MOST_CANDIDATES = 8
"""Earlier modules that are tried for one input."""


@dataclass(eq=False)
class Given:
    """A tensor that linear layers were given."""

    features: int
    readers: list[nn.Module] = field(default_factory=list)
    """The linear layers, in the order of their first calls."""
    source: nn.Module | None = None
    """What gave this very tensor, if its output channels can be scaled."""
    before: list[nn.Module] = field(default_factory=list)
    """Modules called earlier that have as many output channels, the last one first."""

    def candidates(self, block: nn.Module | None) -> list[nn.Module]:
        """What may have made it, to be tried in this order; ``block`` is what holds the readers, if anything does.

        What is not its source made it through other things, as a value projection does through attention. That stays
        within a block.
        """
        if self.source is not None:
            return [self.source]
        inside = set() if block is None else set(block.modules()) - set(self.readers)
        found = [module for module in self.before if module not in self.readers and (not inside or module in inside)]
        return found[:MOST_CANDIDATES]


class Survey:
    """The calls of one forward."""

    def __init__(self) -> None:
        self.given: list[Given] = []
        """What linear layers were given, in the order of their first calls."""
        self.met: set[nn.Module] = set()
        """The linear layers that were called."""
        self.around: dict[nn.Module, set[nn.Module]] = {}
        """For each module that can be scaled and was called: what was running every time, itself among it."""
        self._running: list[nn.Module] = []
        self._calls: list[nn.Module] = []
        # By identity, which another tensor may take once one is gone: so each comes with a reference that tells.
        self._makers: dict[int, tuple[weakref.ref[Tensor], nn.Module]] = {}
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, Given]] = {}

    def meet(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A linear layer is about to be called."""
        x: Tensor = args[0] if args else kwargs["input"]
        if layer in self.met:
            return
        self.met.add(layer)
        reference, version, given = self._seen.get(id(x), (None, 0, None))
        known = reference is not None and reference() is x and version == version_of(x)
        if given is None or not known:
            maker = self._makers.get(id(x))
            source = maker[1] if maker is not None and maker[0]() is x else None
            given = Given(x.shape[-1], source=source, before=_latest(self._calls))
            self.given.append(given)
            self._seen[id(x)] = (weakref.ref(x), version_of(x), given)
        given.readers.append(layer)

    def enter(self, module: nn.Module, args: object) -> None:
        """Any module is about to be called."""
        self._running.append(module)

    def leave(self, module: nn.Module, args: object, output: object) -> None:
        """Any module was called."""
        self._running.remove(module)

    def made(self, module: nn.Module, args: object, output: object) -> None:
        """A module that can be scaled was called."""
        self._calls.append(module)
        running = {module, *self._running}
        self.around[module] = self.around.get(module, running) & running
        if isinstance(output, Tensor):
            self._makers[id(output)] = (weakref.ref(output), module)


def look(model: nn.Module, layers: Collection[nn.Module], batch: object) -> Survey:
    """Runs ``model`` on a batch, and watches what its linear layers are given.

    Of the linear layers only ``layers`` may be producers: the others are to keep their weights.
    """
    survey = Survey()
    scalable = find_scalable(model, layers)
    args, kwargs = copy.deepcopy(arguments(batch))
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(survey.enter).remove)
            stack.callback(module.register_forward_hook(survey.leave).remove)
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_pre_hook(survey.meet, with_kwargs=True).remove)
            if module in scalable:
                stack.callback(module.register_forward_hook(survey.made).remove)
        with inference(model):
            model(*args, **kwargs)
    for given in survey.given:
        given.before = [module for module in given.before if scalable[module] == given.features]
        if given.source not in given.before:  # an embedding, say: its rows are no channels
            given.source = None
    return survey


def find_scalable(model: nn.Module, layers: Collection[nn.Module]) -> dict[nn.Module, int]:
    """Modules whose output channels can be scaled by their own parameters, and how many channels each has.

    Those are norms, linear layers and convolutions among others: all parameters have one row for each channel. None may
    belong to another module too.
    """
    owners = count_owners(model)
    found = {}
    for module in model.modules():
        parameters = own_parameters(module)
        plain = all(_is_plain(parameter) and owners[tensor_identity(parameter)] == 1 for parameter in parameters)
        if not parameters or not plain or (isinstance(module, nn.Linear) and module not in layers):
            continue
        rows = {parameter.shape[0] for parameter in parameters}
        if len(rows) == 1:
            found[module] = rows.pop()
    return found


def count_owners(model: nn.Module) -> Counter[object]:
    """How many modules hold each parameter, by its identity."""
    return Counter(tensor_identity(parameter) for module in model.modules() for parameter in own_parameters(module))


def own_parameters(module: nn.Module) -> list[Tensor]:
    """The parameters that ``module`` itself holds."""
    return [parameter for parameter in module._parameters.values() if parameter is not None]


def _latest(calls: Iterable[nn.Module]) -> list[nn.Module]:
    """Each module once, the one that was called last first."""
    return list(dict.fromkeys(reversed(list(calls))))


def _is_plain(parameter: Tensor) -> bool:
    known = type(parameter) in (Tensor, nn.Parameter) and parameter.layout == torch.strided
    return (
        known
        and not nn.parameter.is_lazy(parameter)
        and parameter.device.type == "cpu"
        and parameter.is_floating_point()
        and parameter.ndim > 0
        and not parameter.is_inference()
    )
