"""Perplexity of a causal language model on a text.

The convention is that of GPTQ (arXiv 2210.17323), SparseGPT (arXiv 2301.00774) and Wanda (arXiv 2306.11695): the text
is tokenised as a whole and cut into windows of equal length that do not overlap. Each window is read by itself, so that
its first token is predicted by nobody, and perplexity is e to the mean negative log-likelihood of all other tokens. It
depends on the tokeniser and on the length of the windows, and compares only where both are the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def windows(ids: Tensor, tokens: int, most: int | None = None) -> Tensor:
    """A text cut into pieces of equal length; what is left at the end is dropped.

    Args:
        ids: the whole text's token ids, int64 [count].
        tokens: of each window, at least 2.
        most: number of windows, from the start; None for all there are.

    Returns:
        int64 [windows, tokens].

    Raises:
        ValueError: ids that are not one text, fewer tokens than 2, or a text shorter than one window.
    """
    if ids.ndim != 1:
        raise ValueError(f"ids: expected the token ids of one text, [count], got shape {list(ids.shape)}")
    if tokens < 2:
        raise ValueError(f"tokens: expected at least 2, of which the last is predicted; got {tokens}")
    if len(ids) < tokens:
        raise ValueError(f"ids: expected at least one window of {tokens} tokens, got {len(ids)}; use a longer text")
    cut = ids[: len(ids) // tokens * tokens].view(-1, tokens)
    return cut if most is None else cut[:most]


@torch.inference_mode()
def perplexity(model: nn.Module, windows: Tensor) -> float:
    """e to the mean negative log-likelihood, in nats, of every token that has one before it in its window.

    Args:
        model: called as ``model(input_ids=ids)`` with ids int64 [1, tokens]; gives an output whose ``logits`` are
            [1, tokens, words], those at t for the token at t + 1. Runs as it is: call ``model.eval()`` first.
        windows: int64 [windows, tokens], tokens >= 2, read one at a time.

    Raises:
        ValueError: windows of another shape, or logits that do not fit them.
    """
    if windows.ndim != 2 or windows.shape[1] < 2 or not len(windows):
        raise ValueError(f"windows: expected [windows, tokens] with at least 2 tokens, got {list(windows.shape)}")
    total = 0.0
    for ids in windows:
        logits = model(input_ids=ids[None]).logits
        if logits.ndim != 3 or logits.shape[:2] != (1, len(ids)):
            raise ValueError(f"model: expected logits [1, {len(ids)}, words], got {list(logits.shape)}")
        total += F.cross_entropy(logits[0, :-1].float(), ids[1:], reduction="sum").item()
    return math.exp(total / (windows.numel() - len(windows)))
