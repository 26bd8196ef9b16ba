"""How much each unit of a group matters: one number for each, the lowest to go first."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgekern.calibration.matrix import to_matrix
from edgekern.calibration.observe import Norms
from edgekern.prune.structured.groups import Group, Owners, Span


def magnitudes(group: Group) -> Tensor:
    """The L2 norm of all matrices' rows and columns that a unit takes with it, divided by the group's mean."""
    total = torch.zeros(group.size)
    for span in group.spans:
        weight = span.axis.tensor.detach()
        if weight.ndim > 1:
            others = [dim for dim in range(weight.ndim) if dim != span.axis.dim]
            _add(total, span, weight.float().square().sum(others))
    scores = total.sqrt()
    return scores / scores.mean().clamp_min(torch.finfo(scores.dtype).tiny)


def random_scores(group: Group, seed: int) -> Tensor:
    """From the name, so that what a group loses does not depend on the other groups."""
    generator = torch.Generator().manual_seed(zlib.crc32(group.name.encode(), seed % 2**32))
    return torch.rand(group.size, generator=generator)


def readers(group: Group, owners: Owners) -> list[nn.Module]:
    """The layers that read the group's units."""
    return [module for span in group.consumers for module, _, _ in owners[id(span.axis.tensor)]]


def contributions(group: Group, owners: Owners, norms: Mapping[nn.Module, Norms]) -> Tensor:
    """The L2 norm of |weight| times the norm of its input, over all weights that read a unit."""
    total = torch.zeros(group.size)
    for span in group.consumers:
        weight = span.axis.tensor.detach()
        for module, _, _ in owners[id(span.axis.tensor)]:
            columns = to_matrix(weight).float().square().sum(0) * norms[module].total[0]
            _add(total, span, columns.view(-1, weight.shape[1]).sum(0))
    return total.sqrt()


def _add(total: Tensor, span: Span, entries: Tensor) -> None:
    ours = span.unit >= 0
    total.index_add_(0, span.unit[ours], entries.cpu()[ours])
