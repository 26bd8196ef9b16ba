"""What a student's logits lose against a teacher's and against labels, in chunks of rows.

The plain formula makes several float32 tensors of the logits' size: both divided by the temperature, two log-softmaxes,
their products and all their gradients. A language model's logits are its largest tensor by far. Here one more is made,
which becomes their gradient; the rest is as large as a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 1 << 22
"""Logits of a chunk: 16 MB as float32. Smaller ones save nothing that counts, and make more calls."""


@dataclass(frozen=True)
class Target:
    """Probabilities for each row of logits, [N, V], to come near to.

    Attributes:
        weight: of its loss in the sum.
        temperature: T. Both sides' logits are divided by it, and the loss multiplied by T^2, so that gradients keep
            their size (Hinton et al. 2015, arXiv 1503.02531).
        rows: bool [N]: which rows count; the loss is their mean.
        logits: of a teacher, [N, V], or [N, k] where there are ``indices``.
        indices: int64 [N, k]: which classes the logits are of; all others have the probability 0. None: all V.
    """

    weight: float
    temperature: float
    rows: Tensor
    logits: Tensor
    indices: Tensor | None = None


def labels_target(weight: float, labels: Tensor, ignored: int = -100) -> Target:
    """One class a row, int64 [N]: the loss is their cross entropy."""
    rows = labels != ignored
    indices = labels.masked_fill(~rows, 0)[:, None]
    return Target(weight, 1.0, rows, torch.zeros_like(indices, dtype=torch.float32), indices)


def logits_loss(student: Tensor, targets: Sequence[Target], chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """The weighted sum of all targets' losses, a scalar, and each loss by itself, float32 [targets] without gradients.

    A target's loss is T^2 KL(target || softmax(student / T)), the mean over its rows; without rows it is 0.

    Args:
        student: logits [N, V].
        targets: what to come near to.
        chunk: logits that are worked on at a time, at least one row.
    """
    total, each = _LogitsLoss.apply(student, tuple(targets), max(1, chunk // max(1, student.shape[-1])))
    return total, each


class _LogitsLoss(torch.autograd.Function):
    """Computes the gradient together with the loss: nothing else of the logits' size has to be kept."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, targets: tuple[Target, ...], chunk: int) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(student, memory_format=torch.contiguous_format) if wanted else None
        losses = torch.zeros(len(targets), dtype=torch.float32, device=student.device)
        for i, target in enumerate(targets):
            count = int(target.rows.sum())
            for start in range(0, len(student) if count else 0, chunk):
                part = slice(start, start + chunk)
                loss, slope = _chunk_loss(student[part], target, part, wanted)
                losses[i] += loss * (target.temperature**2 / count)
                if gradient is not None:
                    gradient[part] += slope.mul_(target.weight * target.temperature / count)
        ctx.save_for_backward(gradient)
        weights = torch.tensor([target.weight for target in targets], device=student.device)
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None


def _chunk_loss(student: Tensor, target: Target, part: slice, wanted: bool) -> tuple[Tensor, Tensor]:
    """Summed KL of a chunk's rows, and softmax(student / T) less the target's probabilities, both without factors."""
    rows = target.rows[part, None]
    found = torch.log_softmax(student.float() / target.temperature, -1)
    teacher = torch.log_softmax(target.logits[part].float() / target.temperature, -1)
    shares = teacher.exp()
    if target.indices is None:
        apart = shares * (teacher - found).masked_fill_(shares == 0, 0)  # a class ruled out by -inf: 0 * inf
    else:
        indices = target.indices[part].long()
        apart = shares * (teacher - found.gather(-1, indices))
    loss = (apart * rows).sum()
    if not wanted:
        return loss, loss
    slope = found.exp_()
    if target.indices is None:
        slope -= shares
    else:
        slope.scatter_add_(-1, indices, -shares)
    return loss, slope.mul_(rows)
