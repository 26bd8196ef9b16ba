"""Which module reads the result of which: what ``fuse_`` needs to know of a model, however it was found out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field

from torch import nn

OWN_ATTRIBUTES = vars(nn.Module()).keys()
"""Those that every module has, for PyTorch's use."""

BY_FX, BY_EXPORT, BY_SEQUENTIAL = "torch.fx", "torch.export", "nn.Sequential"


@dataclass(eq=False)
class Call:
    """One call of a module."""

    module: nn.Module
    name: str
    """That of the module, as it is called here."""
    found: str
    """By which way."""
    readers: list[Call | str] = field(default_factory=list)
    """What reads its result: calls of modules, and in words whatever else."""


@dataclass
class Calls:
    """The calls of a model's parts."""

    of: dict[nn.Module, list[Call]] = field(default_factory=dict)
    """All calls of each module; none for one that the model never calls."""
    obstacles: dict[nn.Module, str] = field(default_factory=dict)
    """Why a module must stay what it is: calls of it are not known, or its tensors are read from outside."""

    def add(self, call: Call) -> None:
        """One more call."""
        self.of.setdefault(call.module, []).append(call)

    def update(self, other: Calls) -> None:
        """Calls and obstacles of another way of looking: what is done to a module has to be right for both."""
        for calls in other.of.values():
            for call in calls:
                self.add(call)
        for module, reason in other.obstacles.items():
            self.obstacles.setdefault(module, reason)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, the model may be traced: no forward hooks run, and attributes that its code sets are put back.

    Hooks see the results of modules, not numbers, while a model is traced, and are not to keep those. That there are
    hooks is taken into account elsewhere.
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    saved = [(vars(module), dict(vars(module)), _contents(module)) for module in model.modules()]
    try:
        for attributes, _, _ in saved:
            for name in hooks:
                attributes[name] = {}
        yield
    finally:
        for attributes, before, contents in saved:
            attributes.clear()
            attributes.update(before)
            for name, content in contents.items():
                attributes[name].clear()
                (attributes[name].extend if isinstance(content, list) else attributes[name].update)(content)


def _contents(module: nn.Module) -> dict[str, list[object] | dict[object, object]]:
    """Copies of the lists and dictionaries among a module's own attributes."""
    return {
        name: copy(value)
        for name, value in vars(module).items()
        if type(value) in (list, dict) and name not in OWN_ATTRIBUTES
    }
