"""Choosing one option for each layer: the least loss whose costs stay within a limit.

This is the multiple-choice knapsack, solved by dynamic programming over costs in steps. Costs are rounded up to whole
steps, so that the limit always holds; what is found is no worse than the best for a limit that is lower by one step for
each layer. The steps do not depend on the limit, so more room never makes the outcome worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEPS = 20_000
"""From the least that all layers together can cost to the most; for more than 400 layers, 50 each."""


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
    least = least_cost(options)
    if limit < least:
        raise ValueError(f"limit: {limit} is below the least that the options cost, {least}")
    most = sum(max(option.cost for option in each) for each in options)
    if limit >= most or most == least:
        return [min(range(len(each)), key=lambda i: (each[i].loss, each[i].cost)) for each in options]
    step = (most - least) / max(STEPS, 50 * len(options))
    capacity = int((limit - least) / step)
    while True:
        chosen = _within(options, step, capacity)
        # Sums of floats are rounded: what is right by the steps may be above the limit in the last digit.
        if sum(each[i].cost for each, i in zip(options, chosen, strict=True)) <= limit:
            return chosen
        if capacity == 0:
            return [min(range(len(each)), key=lambda i: (each[i].cost, each[i].loss)) for each in options]
        capacity -= 1


def _within(options: Sequence[Sequence[Option]], step: float, capacity: int) -> list[int]:
    """The best choice whose costs above the least are at most ``capacity`` steps."""
    room = np.arange(capacity + 1)
    losses = np.zeros(capacity + 1)  # by how many steps may be spent on the layers so far
    taken: list[tuple[np.ndarray, list[int]]] = []
    for each in options:
        low = min(option.cost for option in each)
        steps = [int(np.ceil((option.cost - low) / step)) for option in each]
        best, which = np.full(capacity + 1, np.inf), np.zeros(capacity + 1, np.int16)
        for i in sorted(range(len(each)), key=lambda i: steps[i]):
            if steps[i] > capacity:
                break
            found = np.full(capacity + 1, np.inf)
            found[steps[i] :] = losses[: capacity + 1 - steps[i]] + each[i].loss
            better = found < best
            best[better], which[better] = found[better], i
        losses = best
        taken.append((which, steps))
    at = int(room[losses == losses[-1]][0])  # no more than it takes
    chosen = []
    for which, steps in reversed(taken):
        chosen.append(int(which[at]))
        at -= steps[chosen[-1]]
    return chosen[::-1]
