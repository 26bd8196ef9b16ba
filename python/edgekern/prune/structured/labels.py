"""Which entries of which parameters belong together, found out entry by entry.

Every entry along a parameter's dimension has a number, its label. A tensor that flows through the model carries the
labels of the channels it consists of, and the rules of each operator tie labels that can only go together, or freeze
those that must stay. What is tied in the end, directly or around corners, is one unit: a channel, or a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

NONE = -1
"""The label of an entry that is no parameter's channel."""


@dataclass(frozen=True)
class Axis:
    """One dimension of a parameter or buffer, and the labels of its entries."""

    tensor: Tensor
    dim: int
    labels: Tensor


@dataclass
class Labels:
    """Hands labels out, and keeps what the rules say about them."""

    axes: list[Axis] = field(default_factory=list)
    producers: list[Axis] = field(default_factory=list)
    """Outputs of layers."""
    consumers: list[Axis] = field(default_factory=list)
    """Dimensions that are summed over: a zero there is as good as no channel."""
    frozen: list[tuple[Tensor, str]] = field(default_factory=list)
    mixed: list[tuple[Tensor, str]] = field(default_factory=list)
    """Labels whose removal changes what becomes of the others, and through what."""
    heads: list[Tensor] = field(default_factory=list)
    """Labels of attention heads."""
    _by_tensor: dict[tuple[int, int], Axis] = field(default_factory=dict)
    _ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _count: int = 0

    def axis(self, tensor: Tensor, dim: int) -> Axis:
        """The dimension of a parameter, with labels that are its own."""
        found = self._by_tensor.get((id(tensor), dim))
        if found is None:
            size = tensor.shape[dim]
            found = Axis(tensor, dim, torch.arange(self._count, self._count + size))
            self._count += size
            self._by_tensor[id(tensor), dim] = found
            self.axes.append(found)
        return found

    def tie(self, left: Tensor, right: Tensor, reason: str) -> None:
        """Entries that meet go together; one that meets no channel has to stay, for this reason."""
        left, right = (labels.reshape(-1) for labels in torch.broadcast_tensors(left, right))
        both = (left != NONE) & (right != NONE)
        self._ties.append((left[both], right[both]))
        self.freeze(torch.cat([left[~both], right[~both]]), reason)

    def freeze(self, labels: Tensor, reason: str) -> None:
        """These have to stay."""
        labels = labels[labels != NONE]
        if labels.numel():
            self.frozen.append((labels, reason))

    def keep_whole(self, labels: Tensor, dim: int, reason: str) -> None:
        """Nothing may go from this dimension alone: all along it goes together, or stays if there is no other."""
        if labels.shape[dim] == 1:
            return
        if labels.numel() == labels.shape[dim]:
            self.freeze(labels, reason)
        else:
            self.tie(labels, labels.narrow(dim, 0, 1), reason)

    def units(self) -> Tensor:
        """For each label, the number of the unit it belongs to."""
        unit = torch.arange(self._count)
        if not self._ties:
            return unit
        left, right = (torch.cat(side) for side in zip(*self._ties, strict=True))
        while True:  # the lowest number wins, in a few rounds: links are followed between them
            least = torch.minimum(unit[left], unit[right])
            merged = unit.scatter_reduce(0, torch.cat([unit[left], unit[right]]), least.repeat(2), "amin")
            merged = merged.scatter_reduce(0, torch.cat([left, right]), least.repeat(2), "amin")
            merged = merged[merged]
            if torch.equal(merged, unit):
                return unit
            unit = merged


def no_labels(rank: int) -> Tensor:
    """Labels of a tensor without channels."""
    return torch.full((1,) * rank, NONE)


def along(labels: Tensor, dim: int, rank: int) -> Tensor:
    """Labels of a tensor whose dimension ``dim`` holds these channels."""
    shape = [1] * rank
    shape[dim] = len(labels)
    return compressed(labels.view(shape))


def compressed(labels: Tensor) -> Tensor:
    """The same with size 1 wherever labels do not vary. A lone channel, which nothing could remove, has no label."""
    for dim in range(labels.ndim if labels.numel() else 0):
        first = labels.narrow(dim, 0, 1)
        if labels.shape[dim] > 1 and bool((labels == first).all()):
            labels = first
    return labels if labels.numel() > 1 else no_labels(labels.ndim)


def varying(labels: Tensor) -> Iterator[int]:
    """The dimensions that hold channels."""
    return (dim for dim, size in enumerate(labels.shape) if size > 1)
