"""From curves of loss against sparsity to how much of each layer to remove."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

from edgekern.config import PerLayer, Prune
from edgekern.match import DEFAULT
from edgekern.prune.patterns import nearest
from edgekern.sensitivity.result import Sensitivity, SensitivityRow


def allocate(scan: Sensitivity, sparsity: float) -> PerLayer:
    """The sparsity of each layer for a total of ``sparsity``, such that the losses of ``scan`` add up to the least.

    That takes losses of single layers to add up, which they do only roughly when many are pruned at once. Between the
    sparsities that were scanned the loss is taken for linear, and for convex over all of them: steps are spent where
    they cost the least for each weight, greedily, which is then the best. A layer that does not suffer by a scanned
    sparsity gets at least that, if the total allows.

    The total counts the weights of the layers scanned, and is exact to the weight (or block; for Wanda one of each
    row) wherever layers were scanned one by one. Rounding may differ by one more for each layer of a group.

    Returns:
        For ``prune_``: a rule for each layer scanned, None for one that keeps all. Print it, change its ``rules``.

    Raises:
        TypeError: an argument of another type.
        ValueError: a sparsity out of range, or more than the highest scanned would give; N:M, which has one sparsity.
    """
    if not isinstance(scan, Sensitivity):
        raise TypeError(f"scan: expected what sensitivity() returns, got {type(scan).__name__}")
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float):
        raise TypeError(f"sparsity: expected a number, got {type(sparsity).__name__}")
    curves = scan.curves()
    total = sum(curve[0].weights for curve in curves.values())
    most = sum(curve[-1].scheme.share * curve[0].weights for curve in curves.values()) / total
    if not 0 <= sparsity <= most + 1e-9:
        raise ValueError(f"sparsity: expected 0 to {most:.4f}, the highest that was scanned, got {sparsity}")
    for row in scan:
        if ":" in row.scheme.pattern:
            raise ValueError(f"pattern {row.scheme.pattern!r} of {row.name!r} has one sparsity, nothing to allocate")
    left = float(nearest(sparsity * total))
    steps = dict.fromkeys(curves, 0)
    pieces = [piece for name, curve in curves.items() for piece in _pieces(name, curve)]
    for piece in sorted(pieces, key=lambda piece: piece.slope):  # within a layer they rise already
        taken = max(0, min(piece.steps, nearest(left / piece.weights)))
        steps[piece.name] += taken
        left -= taken * piece.weights
    rules: dict[str, Prune | None] = {}
    for name, curve in curves.items():
        share = steps[name] / curve[0].steps
        scheme = dataclasses.replace(curve[0].scheme, sparsity=share) if share else None
        rules.update({layer or DEFAULT: scheme for layer in curve[0].layers})  # no name: it is the model
    return PerLayer(rules)


@dataclass(frozen=True)
class _Piece:
    """A straight piece of one layer's curve."""

    name: str
    steps: int
    weights: float
    """In each step."""
    slope: float
    """Loss for each weight."""


def _pieces(name: str, curve: list[SensitivityRow]) -> list[_Piece]:
    """The lower convex hull of a layer's curve, from nothing removed on.

    Measured losses may wobble: one below zero, or below that of a lower sparsity, counts as no more than that.
    """
    points = [(0, 0.0)]
    for row in curve:
        point = (nearest(row.scheme.share * row.steps), max(row.loss, points[-1][1] if len(points) > 1 else 0.0))
        points.append(point)
    weights = curve[0].weights / curve[0].steps
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
