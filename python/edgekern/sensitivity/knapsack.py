"""Choosing one option for each layer: the least loss whose costs stay within a limit.

This is the multiple-choice knapsack. Layer after layer, all sums of cost and loss that can be reached are kept, without
those that cost no less than another and lose no less. Where they become too many, one is kept for each step of cost,
the one that loses least. Costs themselves are never rounded, so the limit always holds. With few layers the outcome is
the best there is; with many, no worse than the best for a limit that is lower by a step for each layer. What is kept
does not depend on the limit, so more room never makes the outcome worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

STEPS = 20_000
"""From the least that all layers together can cost to the most; and about as many sums are kept."""


@dataclass(frozen=True)
class Option:
    """One thing that could be done to a layer."""

    cost: float
    loss: float


def least_cost(options: Sequence[Sequence[Option]]) -> float:
    """What no choice is below."""
    return sum(min(option.cost for option in each) for each in options)


def best_choice(options: Sequence[Sequence[Option]], limit: float) -> list[int]:
    """The index of the option for each layer. Of equal losses the one with the lower cost is taken.

    Raises:
        ValueError: ``limit`` is below :func:`least_cost`.
    """
    most = sum(max(option.cost for option in each) for each in options)
    step = (most - least_cost(options)) / STEPS
    cost, loss = np.zeros(1), np.zeros(1)
    came_from: list[npt.NDArray[np.int64]] = []
    for each in options:
        costs = np.add.outer(cost, [option.cost for option in each]).ravel()
        losses = np.add.outer(loss, [option.loss for option in each]).ravel()
        kept = _worth_keeping(costs, losses, step)
        cost, loss = costs[kept], losses[kept]
        came_from.append(kept)
    at = int(np.searchsorted(cost, limit, side="right")) - 1  # costs rise, and losses fall
    if at < 0:
        raise ValueError(f"limit: {limit} is below the least that the options cost, {cost[0]}")
    chosen = []
    for each, kept in zip(reversed(options), reversed(came_from), strict=True):
        at, option = divmod(int(kept[at]), len(each))
        chosen.append(option)
    return chosen[::-1]


def _worth_keeping(cost: npt.NDArray[np.float64], loss: npt.NDArray[np.float64], step: float) -> npt.NDArray[np.int64]:
    """Indices, by rising cost, of those that lose less than all that cost no more; thinned out where there are many."""
    order = np.lexsort((loss, cost))
    least = np.minimum.accumulate(loss[order])
    kept = order[np.concatenate(([True], least[1:] < least[:-1]))]
    if len(kept) <= STEPS or step == 0:
        return kept
    steps = np.floor((cost[kept] - cost[kept[0]]) / step)
    last = np.concatenate((steps[1:] != steps[:-1], [True]))  # of those within a step: it loses least
    last[0] = True  # the least that can be
    return kept[last]
