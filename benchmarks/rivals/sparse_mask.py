"""Random masks: which weights of a pruned layer are left, the same for every subject."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCKS = {"unstructured": (1, 1), "1x4": (1, 4), "4x4": (4, 4)}  # rows (N) x columns (K) kept or removed as a whole


def random_mask(n: int, k: int, pattern: str, sparsity: float) -> NDArray[np.bool_]:
    """What is kept of a weight [N, K]: exactly 1 - `sparsity` of it, in units of `pattern`, wherever chance wants.

    Chance is fair to random weights: their magnitudes are as random, and rows keep unlike numbers of them all the same.

    Raises:
        ValueError: an unknown pattern, one that does not divide the weight, or 2:4 at another sparsity than 0.5.
    """
    rng = np.random.default_rng([n, k])
    if pattern == "2:4":
        if sparsity != 0.5:
            raise ValueError(f"sparsity: 2:4 removes 0.5 of the weights, got {sparsity}")
        places = rng.random((n, k // 4, 4), np.float32).argsort(axis=2)  # of every four, a random order
        return (places < 2).reshape(n, k)
    if pattern not in BLOCKS:
        raise ValueError(f"pattern: expected one of {', '.join([*BLOCKS, '2:4'])}; got {pattern!r}")
    rows, columns = BLOCKS[pattern]
    if n % rows or k % columns:
        raise ValueError(f"pattern: {pattern} does not divide a weight of {n} x {k}")
    units = (n // rows) * (k // columns)
    kept = np.arange(units) >= round(sparsity * units)
    return rng.permutation(kept).reshape(n // rows, -1).repeat(rows, axis=0).repeat(columns, axis=1)
