"""The scheme of ``shrink_``: how much narrower a model becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgekern.config.checks import check_choice, check_count, check_number, kind_of
from edgekern.config.scheme import Scheme

SHRINK_METHODS = ("magnitude", "wanda", "random")
SHRINK_SCOPES = ("local", "global")


@dataclass(frozen=True)
class Shrink(Scheme):
    """Some of a float model's channels and attention heads taken out, for ``shrink_``.

    Attributes:
        sparsity: share of the units, channels or heads, to remove, 0 to 1. At least one step of ``round_to`` stays.
        method: ``"magnitude"``, the L2 norm of all weights that go with a unit; ``"wanda"``, how much a unit adds to
            the layers that read it (needs data); ``"random"``, the baseline to beat.
        scope: ``"local"`` removes the same share of every group of units; ``"global"`` (magnitude and random) compares
            units across all groups under one rule, each score divided by the mean of its group.
        min_sparsity: least share removed from any one group, for "global", before rounding.
        max_sparsity: largest share removed from any one group, likewise.
        round_to: the channels left are a multiple of this, where there were as many, so that kernels have full tiles.
        through_norms: also takes channels out of what a layer or RMS norm is computed over, as in the width of a
            transformer. The norm then sees other channels, so even a channel of zeros does not go unnoticed.
        seed: of ``"random"``.

    Raises:
        TypeError: an option of another type.
        ValueError: a value out of range, or options that do not go together.
    """

    format: ClassVar[str] = "shrink"
    carried_out_by: ClassVar[str] = "shrink_"

    sparsity: float
    method: str = "magnitude"
    scope: str = "local"
    min_sparsity: float = 0.0
    max_sparsity: float = 1.0
    round_to: int = 8
    through_norms: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, SHRINK_METHODS, "Shrink")
        check_choice("scope", self.scope, SHRINK_SCOPES, "Shrink")
        for name in ("sparsity", "min_sparsity", "max_sparsity"):
            check_number(name, getattr(self, name), 1.0, "Shrink")
        for name, least in (("round_to", 1), ("seed", 0)):
            check_count(name, getattr(self, name), least, "Shrink")
        if not isinstance(self.through_norms, bool):
            raise TypeError(f"Shrink: through_norms must be a bool, got {kind_of(self.through_norms)}")
        if self.scope == "global" and self.method == "wanda":
            raise ValueError("Shrink: scores of method 'wanda' do not compare across groups; use scope='local'")
        if self.scope == "local" and (self.min_sparsity, self.max_sparsity) != (0.0, 1.0):
            raise ValueError("Shrink: min_sparsity and max_sparsity bound the scope 'global', not 'local'")
        if not self.min_sparsity <= self.sparsity <= self.max_sparsity:
            raise ValueError(
                f"Shrink: sparsity {self.sparsity} lies outside of min_sparsity {self.min_sparsity} "
                f"to max_sparsity {self.max_sparsity}"
            )

    @property
    def share(self) -> float:
        """The sparsity, under the name that all schemes with a budget have for it."""
        return self.sparsity
