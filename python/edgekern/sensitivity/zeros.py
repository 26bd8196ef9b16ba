"""From curves of loss against sparsity to how much of each layer to remove."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from edgekern.config import Prune
from edgekern.prune.patterns import nearest
from edgekern.sensitivity.result import SensitivityRow

Curve = list[tuple[SensitivityRow, Prune]]
"""Rows of one layer or group, each with its scheme."""


def best_shares(curves: dict[str, Curve], sparsity: float) -> dict[str, float]:
    """The sparsity of each layer for a total of ``sparsity``, such that the losses add up to the least.

    Between the sparsities that were scanned the loss is taken for linear, and for convex over all of them: steps are
    spent where they cost the least for each weight, greedily, which is then the best. A layer that does not suffer by a
    scanned sparsity gets at least that, if the total allows.

    The total counts the weights of the layers scanned, and is exact to the weight (or block; for Wanda one of each
    row) wherever layers were scanned one by one. Rounding may differ by one more for each layer of a group.
    """
    left = float(nearest(sparsity * sum(curve[0][0].weights for curve in curves.values())))
    steps = dict.fromkeys(curves, 0)
    pieces = [piece for name, curve in curves.items() for piece in _pieces(name, curve)]
    for piece in sorted(pieces, key=lambda piece: piece.slope):  # within a layer they rise already
        taken = max(0, min(piece.steps, nearest(left / piece.weights)))
        steps[piece.name] += taken
        left -= taken * piece.weights
    return {name: steps[name] / curve[0][0].steps for name, curve in curves.items()}


def most_zeros(curves: dict[str, Curve]) -> float:
    """The share of all weights that are zero where each layer has the highest sparsity scanned."""
    total = sum(curve[0][0].weights for curve in curves.values())
    return sum(max(scheme.share for _, scheme in curve) * curve[0][0].weights for curve in curves.values()) / total


@dataclass(frozen=True)
class _Piece:
    """A straight piece of one layer's curve."""

    name: str
    steps: int
    weights: float
    """In each step."""
    slope: float
    """Loss for each weight."""


def _pieces(name: str, curve: Curve) -> list[_Piece]:
    """The lower convex hull of a layer's curve, from nothing removed on.

    Measured losses may wobble: one below zero, or below that of a lower sparsity, counts as no more than that.
    """
    points = [(0, 0.0)]
    for row, scheme in sorted(curve, key=lambda each: each[1].share):
        points.append((nearest(scheme.share * row.steps), max(row.loss, points[-1][1] if len(points) > 1 else 0.0)))
    first = curve[0][0]
    weights = first.weights / first.steps
    hull: list[tuple[int, float]] = []
    for point in points:
        if hull and point[0] == hull[-1][0]:  # a sparsity too close to the one before to make a difference
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], point):
            hull.pop()
        hull.append(point)
    return [
        _Piece(name, end[0] - begin[0], weights, _slope(begin, end) / weights)
        for begin, end in itertools.pairwise(hull)
    ]


def _slope(begin: tuple[int, float], end: tuple[int, float]) -> float:
    return (end[1] - begin[1]) / (end[0] - begin[0])
