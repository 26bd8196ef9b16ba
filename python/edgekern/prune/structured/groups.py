"""Groups of units that run through the same dimensions: what is ranked, and of which some are removed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekern.prune.structured.labels import Axis, Labels

Owners = dict[int, list[tuple[nn.Module, str, str]]]
"""By the identity of a parameter or buffer: the modules that hold it, their names, and what they call it."""


@dataclass(frozen=True)
class Span:
    """A dimension, and to which of the group's units each of its entries belongs; -1 for those of others."""

    axis: Axis
    unit: Tensor


@dataclass(frozen=True)
class Group:
    """Units, channels or heads, that go through the same layers."""

    kind: str
    """``"channels"`` or ``"heads"``."""
    layers: tuple[str, ...]
    """Those whose outputs they are."""
    spans: tuple[Span, ...]
    """Every dimension they go through; outputs of layers first."""
    size: int
    """How many units."""
    obstacle: str
    """Why they all have to stay; empty when they do not."""
    mixing: str
    """The operator through which a unit counts for all others; empty when each is by itself."""
    consumers: tuple[Span, ...]
    """Those of ``spans`` that are summed over."""

    @property
    def name(self) -> str:
        """The first layer's."""
        return self.layers[0]

    @property
    def width(self) -> int:
        """Output channels of the first layer in one unit."""
        return int((self.spans[0].unit >= 0).sum()) // self.size


def find_groups(model: nn.Module, labels: Labels) -> list[Group]:
    """Every group that linear and convolution layers of ``model`` make, in the model's order."""
    owners = owners_of(model)
    units = labels.units()
    axes = _sorted_axes(labels, owners)
    reach: dict[int, list[int]] = defaultdict(list)
    for number, axis in enumerate(axes):
        for unit in units[axis.labels].unique().tolist():
            reach[unit].append(number)
    members: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for unit, numbers in reach.items():
        members[tuple(numbers)].append(unit)
    about = _About(labels, units, owners)
    groups = [
        about.group(_spans([axes[number] for number in through], units, roots), roots)
        for through, roots in members.items()
    ]
    return [group for group in groups if group.layers]


class _About:
    """What is known about units."""

    def __init__(self, labels: Labels, units: Tensor, owners: Owners) -> None:
        self._owners = owners
        self._frozen, self._mixed = _reasons(labels.frozen, units), _reasons(labels.mixed, units)
        self._heads = set(units[torch.cat(labels.heads)].tolist()) if labels.heads else set()
        self._producing = {id(axis) for axis in labels.producers}
        self._consuming = {id(axis) for axis in labels.consumers}

    def group(self, spans: tuple[Span, ...], roots: list[int]) -> Group:
        """The group of these units."""
        made = [span.axis for span in spans if id(span.axis) in self._producing]
        holders = [holder for axis in made for holder in self._owners[id(axis.tensor)]]
        layers = [name for module, name, _ in holders if not isinstance(module, nn.Embedding)]
        return Group(
            "heads" if self._heads.issuperset(roots) else "channels",
            tuple(dict.fromkeys(layers)),
            spans,
            len(roots),
            next((self._frozen[root] for root in roots if root in self._frozen), ""),
            next((self._mixed[root] for root in roots if root in self._mixed), ""),
            tuple(span for span in spans if id(span.axis) in self._consuming),
        )


def owners_of(model: nn.Module) -> Owners:
    """Who holds which parameter or buffer."""
    owners: Owners = defaultdict(list)
    for path, module in model.named_modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                owners[id(tensor)].append((module, path, name))
    return owners


def _sorted_axes(labels: Labels, owners: Owners) -> list[Axis]:
    """Outputs of layers first, then in the model's order."""
    place = {tensor: number for number, tensor in enumerate(owners)}
    producing = {id(axis) for axis in labels.producers}
    known = [axis for axis in labels.axes if id(axis.tensor) in owners]
    return sorted(known, key=lambda axis: (id(axis) not in producing, place[id(axis.tensor)], axis.dim))


def _reasons(said: list[tuple[Tensor, str]], units: Tensor) -> dict[int, str]:
    found: dict[int, str] = {}
    for labels, reason in said:
        for unit in units[labels].unique().tolist():
            found.setdefault(unit, reason)
    return found


def _spans(axes: list[Axis], units: Tensor, roots: list[int]) -> tuple[Span, ...]:
    number = torch.full((len(units),), -1)
    number[torch.tensor(roots)] = torch.arange(len(roots))
    return tuple(Span(axis, number[units[axis.labels]]) for axis in axes)
