"""The task all linear subjects share: y = x W^T + b, float32 in and float32 out, and its correct answer.

A task with a pattern and a sparsity has that share of W set to zero first.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from harness.subject import Subject
from numpy.typing import NDArray

from rivals.sparse_mask import random_mask

FloatArray = NDArray[np.float32]

COLD_BYTES = 256 << 20  # weights that a cold measurement rotates through: far beyond any last-level cache


class Bound(NamedTuple):
    """A layer tied to one input: `call` is what gets timed, `read` returns the output it made."""

    call: Callable[[], Any]
    read: Callable[[], FloatArray]


def random_layer(k: int, n: int) -> tuple[FloatArray, FloatArray]:
    """Weight [N, K] and bias [N], the same for every subject."""
    rng = np.random.default_rng(k * 100_003 + n)
    weight = rng.standard_normal((n, k), np.float32) / np.float32(math.sqrt(k))
    return weight, rng.standard_normal(n, np.float32)


def random_input(m: int, k: int) -> FloatArray:
    """Activations [M, K], the same for every subject."""
    return np.random.default_rng(m * 100_019 + k).standard_normal((m, k), np.float32)


class LinearSubject(Subject):
    """A library's linear layer. Subclasses build layers and bind them to an input."""

    bytes_per_weight: ClassVar[float]
    # |y - exact| / |exact| over the whole output. Eight bits cost 0.5 to 2 % on these normal variates, and up to 7 % in
    # the smallest layers where a rival's 16-bit sums saturate, as they do without VNNI.
    largest_error: float = 0.1

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._made: tuple[Any, ...] = ()  # what the layers were made for
        self._layers: list[Any] = []
        self._weight = self._bias = np.empty(0, np.float32)

    @abstractmethod
    def build(self, weight: FloatArray, bias: FloatArray) -> Any:
        """One more layer with its own memory, from weight [N, K] and bias [N]."""

    def bytes_of(self, layer: Any) -> float:
        """Bytes of weights that one call of `layer` reads."""
        return self._weight.size * self.bytes_per_weight

    @abstractmethod
    def bind(self, layer: Any, x: FloatArray) -> Bound:
        """Tie `layer` to the input x [M, K]."""

    def prepare(self, **task: Any) -> dict[str, Any]:
        """Task: m, k, n, cold (rotate through COLD_BYTES of weights), and pattern with sparsity if W is sparse.

        Raises ArithmeticError on a wrong answer.
        """
        m, k, n, pattern, sparsity = (task.get(key) for key in ("m", "k", "n", "pattern", "sparsity"))
        self.calls = []
        if (k, n, pattern, sparsity) != self._made:
            self._layers.clear()
            self._weight, self._bias = random_layer(k, n)
            if pattern is not None:
                self._weight *= random_mask(n, k, pattern, sparsity)
            self._layers.append(self.build(self._weight, self._bias))
            self._made = (k, n, pattern, sparsity)
        copies = math.ceil(COLD_BYTES / self.bytes_of(self._layers[0])) if task["cold"] else 1
        while len(self._layers) < copies:
            self._layers.append(self.build(self._weight, self._bias))
        del self._layers[copies:]
        x = random_input(m, k)
        bound = [self.bind(layer, x) for layer in self._layers]
        exact = x @ self._weight.T + self._bias
        error = max(self._relative_error(each, exact) for each in (bound[0], bound[-1]))
        if not error <= self.largest_error:
            raise ArithmeticError(f"the answer is off by {error:.1%} (allowed {self.largest_error:.0%})")
        self.calls = [each.call for each in bound]
        return {"relative_error": error, "copies": copies}

    @staticmethod
    def _relative_error(bound: Bound, exact: FloatArray) -> float:
        bound.call()
        return float(np.linalg.norm(bound.read() - exact) / np.linalg.norm(exact))
