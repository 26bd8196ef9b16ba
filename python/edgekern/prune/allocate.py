"""How much each layer loses, for the scopes that vary it."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from edgekern.config import Prune
from edgekern.prune.patterns import lowest, nearest


class Budget(Protocol):
    """What a scheme says about how much may go."""

    @property
    def share(self) -> float:
        """Of all units together."""

    @property
    def min_sparsity(self) -> float:
        """Of each layer, at least."""

    @property
    def max_sparsity(self) -> float:
        """Of each layer, at most."""


def global_masks(units: list[Tensor], scheme: Budget) -> list[Tensor]:
    """Masks of units kept, the lowest going first across all layers together.

    A layer loses at least its ``min_sparsity`` and at most its ``max_sparsity`` of units, each rounded to the nearest
    number. Takes memory for all units at once.
    """
    floors = [nearest(scheme.min_sparsity * scores.numel()) for scores in units]
    ceilings = [nearest(scheme.max_sparsity * scores.numel()) for scores in units]
    lines = []
    for scores, floor, ceiling in zip(units, floors, ceilings, strict=True):
        line = scores.reshape(1, -1)
        free = line.masked_fill(~lowest(line, ceiling), math.inf)
        lines.append(free.masked_fill_(lowest(line, floor), -math.inf))
    joined = torch.cat(lines, dim=1)
    count = nearest(scheme.share * joined.shape[1])
    gone = lowest(joined, min(max(count, sum(floors)), sum(ceilings)))  # roundings of many layers may add up
    pieces = gone.split([line.shape[1] for line in lines], dim=1)
    return [~piece.view_as(scores) for piece, scores in zip(pieces, units, strict=True)]


def outlier_ratio(scores: Tensor, factor: float) -> float:
    """Share of a layer's Wanda scores above ``factor`` times their mean."""
    return (scores > factor * scores.mean()).float().mean().item()


def owl_shares(ratios: list[float], weights: list[int], scheme: Prune) -> list[float]:
    """Sparsity of each layer: less, the more outliers it has (Yin et al. 2023, arXiv 2310.05175).

    Outlier ratios are stretched to a range of 2 * ``spread``, and shifted so that all layers together, by their numbers
    of weights, lose ``sparsity`` within their floor and ceiling.
    """
    low, high = min(ratios), max(ratios)
    stretch = 2 * scheme.spread / (high - low) if high > low else 0.0
    offsets = [(low - ratio) * stretch for ratio in ratios]
    wanted = scheme.share * sum(weights)

    def shares(shift: float) -> list[float]:
        return [min(max(shift + offset, scheme.min_sparsity), scheme.max_sparsity) for offset in offsets]

    # The sum grows with the shift, from all at the floor to all at the ceiling: halve the interval.
    below, above = -1.0, 2.0 + 2 * scheme.spread
    for _ in range(60):
        middle = (below + above) / 2
        total = sum(share * count for share, count in zip(shares(middle), weights, strict=True))
        below, above = (middle, above) if total < wanted else (below, middle)
    return shares(above)
