"""``AGP``: a sparsity that rises while a model trains."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from edgekern.config.prune import Prune


@dataclass(frozen=True)
class AGP:
    """Sparsity that rises along a cubic: fast at first, while there is much to spare (arXiv 1710.01878).

    Attributes:
        begin: step of the first pruning.
        end: step at which the sparsity that ``Prune`` asks for is reached.
        every: steps between prunings, for the rest of the network to recover in.
        initial: sparsity at ``begin``.

    Raises:
        TypeError: an option of another type.
        ValueError: a value out of range, or an end that is not after the beginning.
    """

    begin: int
    end: int
    every: int = 1
    initial: float = 0.0

    def __post_init__(self) -> None:
        for name in ("begin", "end", "every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"AGP: {name} must be an int, got {type(value).__name__}")
        if not isinstance(self.initial, int | float):
            raise TypeError(f"AGP: initial must be a number, got {type(self.initial).__name__}")
        if not 0 <= self.begin < self.end:
            raise ValueError(f"AGP: expected 0 <= begin < end, got begin {self.begin} and end {self.end}")
        if self.every < 1 or not 0 <= self.initial <= 1:
            raise ValueError(f"AGP: expected every >= 1 and initial in 0 to 1, got {self.every} and {self.initial}")

    def due(self, step: int) -> bool:
        """Whether to prune at this step; the last time is at ``end``, whatever ``every`` is."""
        return self.begin <= step <= self.end and ((step - self.begin) % self.every == 0 or step == self.end)

    def sparsity(self, step: int, final: float) -> float:
        """The sparsity at a step on the way to ``final``."""
        left = (self.end - min(max(step, self.begin), self.end)) / (self.end - self.begin)
        return final + (self.initial - final) * left**3

    def at(self, scheme: Prune, step: int) -> Prune:
        """``scheme`` with the sparsity of this step.

        Raises:
            ValueError: a pattern or method that cannot be gradual, or a sparsity below ``initial``.
        """
        if scheme.share < self.initial:
            raise ValueError(f"AGP: initial {self.initial} lies above the sparsity {scheme.share} to be reached")
        return at_share(scheme, self.sparsity(step, scheme.share))


def at_share(scheme: Prune, share: float) -> Prune:
    """``scheme`` with another sparsity, on the way to its own.

    Raises:
        ValueError: a pattern or method that cannot be gradual.
    """
    if ":" in scheme.pattern:
        raise ValueError(f"pattern {scheme.pattern!r} has one sparsity only; prune it in one step, with prune_")
    if scheme.method == "sparsegpt":
        raise ValueError("method 'sparsegpt' cannot be gradual: it moves weights to make up for all it removes at once")
    return dataclasses.replace(scheme, sparsity=share, min_sparsity=min(scheme.min_sparsity, share))
