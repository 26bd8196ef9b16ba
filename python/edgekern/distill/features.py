"""What layers inside give, taken by forward hooks, and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.calibration.observe import tensors_in

HIDDEN_LOSSES = ("squarehead", "mse", "cosine")


@contextmanager
def outputs_of(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, the first tensor that each of these modules has given last, by name."""
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name in names:

            def take(_: nn.Module, __: Any, output: object, *, name: str = name) -> None:
                found[name] = tensors_in(output)[0]

            stack.callback(model.get_submodule(name).register_forward_hook(take).remove)
        yield found


def hidden_distance(kind: str, found: Tensor, wanted: Tensor, mask: Tensor | None) -> Tensor:
    """How far hidden states, [B, T, D], or feature maps, [B, C, H, W], are apart; a scalar.

    ``"squarehead"`` is the squared error as a share of the teacher's squares (Kurtic et al. 2023, arXiv 2310.06927), so
    layers count alike, however large their outputs are; ``"mse"`` is that error itself; ``"cosine"`` is 1 less the
    cosine of the angle at each token.

    Args:
        kind: one of :data:`HIDDEN_LOSSES`.
        found: of the student.
        wanted: of the teacher, of the same shape.
        mask: bool [B, T]: which tokens count; None: all do.
    """
    found, wanted = found.float(), wanted.float()
    if mask is not None and found.ndim == 3 and mask.shape == found.shape[:2]:
        found, wanted = found[mask], wanted[mask]
    if kind == "cosine":
        dim = 1 if found.ndim == 4 else -1
        return 1 - torch.cosine_similarity(found, wanted, dim).mean()
    error = (found - wanted).square().mean()
    return error / (wanted.square().mean() + 1e-6) if kind == "squarehead" else error


def attention_distance(found: Tensor, wanted: Tensor, mask: Tensor | None) -> Tensor:
    """KL between attention maps, [B, heads, T, T], the mean over heads and tokens (Wang et al. 2020, arXiv 2002.10957).

    With another number of heads on either side, the means over heads are compared.
    """
    if found.shape[1] != wanted.shape[1]:
        found, wanted = found.mean(1, keepdim=True), wanted.mean(1, keepdim=True)
    found, wanted = found.float().clamp_min(1e-9), wanted.float().clamp_min(1e-9)
    rows = (wanted * (wanted.log() - found.log())).sum(-1).mean(1)
    return rows[mask].mean() if mask is not None and mask.shape == rows.shape else rows.mean()


def make_projection(student: Tensor, teacher: Tensor) -> nn.Module | None:
    """What brings the student's features to the teacher's width; None where they have it.

    Raises:
        ValueError: shapes that differ in more than the width.
    """
    dim = 1 if teacher.ndim == 4 else -1
    others = [[size for i, size in enumerate(each.shape) if i != dim % each.ndim] for each in (student, teacher)]
    if student.ndim != teacher.ndim or others[0] != others[1]:
        raise ValueError(f"outputs have shapes {list(student.shape)} and {list(teacher.shape)}")
    narrow, wide = student.shape[dim], teacher.shape[dim]
    if narrow == wide:
        return None
    if teacher.ndim == 4:
        return nn.Conv2d(narrow, wide, 1, bias=False, device=student.device)
    return nn.Linear(narrow, wide, bias=False, device=student.device)
