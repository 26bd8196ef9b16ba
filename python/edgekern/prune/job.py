"""Pruning one layer: its weight as a matrix goes in, and what the method makes of it comes out."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekern.calibration.matrix import to_matrix
from edgekern.config import Prune
from edgekern.nn.layers import Layer
from edgekern.prune.patterns import Pattern, pattern_of
from edgekern.prune.sparsegpt import sparsegpt
from edgekern.prune.task import PruneError


@dataclass
class Job:
    """One layer to prune."""

    layer: Layer
    scheme: Prune
    share: float
    """To remove from it; "owl" changes it."""
    reason: str = ""
    """Why it was left alone after all."""
    movement: Tensor | None = None
    """Scores for the method "movement", in the shape of the weight."""

    @property
    def name(self) -> str:
        """The layer's first name."""
        return self.layer.name

    @property
    def weight(self) -> Tensor:
        """The layer's own weight."""
        return self.layer.linear.weight.detach()

    @property
    def matrix(self) -> Tensor:
        """The weight as patterns see it, float32; perhaps a view of it."""
        return to_matrix(self.weight).float()

    @property
    def pattern(self) -> Pattern:
        """The pattern that was asked for."""
        return pattern_of(self.scheme.pattern)

    def scores(self) -> Tensor:
        """What methods without data judge weights by, [out, in]."""
        if self.movement is not None:
            return to_matrix(self.movement)
        matrix = self.matrix
        if self.scheme.method == "magnitude":
            return matrix.abs()
        # From the name, so that a layer's mask does not depend on which other layers are pruned.
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode(), self.scheme.seed % 2**32))
        # Zeros score 0 and go first, so that pruning further keeps what was pruned before.
        return torch.rand(matrix.shape, generator=generator) * (matrix != 0)

    def wanda_scores(self, norms: Tensor) -> Tensor:
        """|weight| times the L2 norm of its input (Sun et al. 2023, arXiv 2306.11695), [out, in].

        ``norms`` is [groups, in]: the rows of one group of channels meet the same inputs.
        """
        matrix = self.matrix
        return matrix.abs() * norms.repeat_interleave(len(matrix) // len(norms), dim=0)

    def masked(self, scores: Tensor, by_row: bool = False) -> Tensor:
        """The matrix without the layer's share of weights, the lowest scores first."""
        return self.kept(self.pattern.keep(scores, self.share, by_row))

    def kept(self, keep: Tensor) -> Tensor:
        """The matrix where ``keep`` holds, zero elsewhere."""
        return to_matrix(self.weight).masked_fill(~keep, 0)

    def solved(self, hessians: Tensor) -> Tensor:
        """The matrix as SparseGPT prunes it; ``hessians`` is [groups, in, in], each group a problem of its own.

        Raises:
            PruneError: a damped Hessian is singular, or weights are too large for what they are rounded to.
        """
        scheme, pattern = self.scheme, self.pattern
        try:
            parts = [
                sparsegpt(
                    rows,
                    hessian,
                    pattern,
                    self.share,
                    scheme.damping,
                    scheme.block_size,
                    scheme.joint,
                    self.weight.dtype,
                )
                for rows, hessian in zip(self.matrix.chunk(len(hessians)), hessians, strict=True)
            ]
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # it is there, but not exported
            raise PruneError(
                f"the inputs of {self.name!r} are too few or too alike for SparseGPT with damping {scheme.damping}; "
                "use more data or a larger damping"
            ) from None
        except ValueError as error:
            if scheme.joint is None:
                raise
            raise PruneError(f"{self.name!r} cannot be rounded to {scheme.joint!r} on the way: {error}") from None
        return torch.cat(parts)
