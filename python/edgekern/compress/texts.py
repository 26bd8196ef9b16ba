"""The data of a run out of texts: windows for language models, lines for encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.compress.data import CompressData, digest
from edgekern.compress.errors import CompressError
from edgekern.config import Text
from edgekern.evaluate import Encoder, LanguageModel, SimilarityTask, perplexity, windows

Batch = Mapping[str, Any]


class Batches:
    """Batches in another order in each epoch, the same again when an epoch is begun again.

    Args:
        given: all of them.
        seed: of the order.
    """

    def __init__(self, given: Sequence[Batch], seed: int) -> None:
        self._given, self._seed, self._epoch = given, seed, 0
        self.digest = digest([seed, list(given)])
        """What tells them from others."""

    def set_epoch(self, epoch: int) -> None:
        """``fit`` says which epoch begins."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._given)

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return (self._given[i] for i in torch.randperm(len(self._given), generator=generator).tolist())


# ---------------------------------------------------------------------------------------------- language models


def language_model_data(
    tokenizer: Any, longest: int | None, text: str, held_out: str | None, how: Text
) -> CompressData:
    """Windows of a text to calibrate and train with, and perplexity on others.

    Args:
        tokenizer: of the model.
        longest: how many tokens the model reads at once; None where nobody knows.
        text: to calibrate and train with.
        held_out: to measure perplexity on; None keeps the first ``how.evaluation`` windows of ``text`` for that.
        how: to cut them.

    Raises:
        CompressError: a text that is too short.
    """
    tokens = how.tokens if longest is None else min(how.tokens, longest)
    reader = LanguageModel(nn.Identity(), tokenizer)  # of which the tokenizer alone is used
    ids = reader.ids(text)
    if held_out is None:
        wanted = how.evaluation * tokens
        kept, ids = ids[:wanted], ids[wanted:]
        least = f"{wanted + tokens} tokens: {how.evaluation} windows of {tokens} to evaluate on, and one to learn from"
    else:
        kept, least = reader.ids(held_out), f"one window of {tokens} tokens"
    if len(ids) < tokens or len(kept) < tokens:
        short = "--data" if len(ids) < tokens else "--eval"
        raise CompressError(f"{short}: the text is too short; expected at least {least}")
    learnt, judged = windows(ids, tokens), windows(kept, tokens, how.evaluation)
    groups = learnt.split(how.batch)
    return CompressData(
        calibration=[{"input_ids": window[None], "use_cache": False} for window in _spread(learnt, how.calibration)],
        training=Batches([{"input_ids": each, "labels": each, "use_cache": False} for each in groups], how.seed),
        evaluation=[{"input_ids": window[None], "use_cache": False} for window in judged],
        evaluate=lambda model: perplexity(model, judged),
        metric="perplexity",
        higher_is_better=False,
        causal=True,
    )


# ---------------------------------------------------------------------------------------------- encoders


def encoder_data(
    tokenizer: Any, texts: Sequence[str], held_out: Sequence[str] | None, task: SimilarityTask | None, how: Text
) -> CompressData:
    """Texts in batches of like lengths, and a task to judge by, or how far outputs are from the first model's.

    Args:
        tokenizer: of the model.
        texts: to calibrate and train with, one a line.
        held_out: to compare outputs on, and to time a call with; None takes ``texts``.
        task: to score; None compares outputs.
        how: to make batches.

    Raises:
        CompressError: no texts.
    """
    for option, lines in (("--data", texts), ("--eval", held_out)):
        if lines is not None and not lines:
            raise CompressError(f"{option}: the file holds no line of text")
    learnt = _encoder_batches(tokenizer, texts, how)
    judged = _spread(_encoder_batches(tokenizer, texts if held_out is None else held_out, how), how.evaluation)
    middle = len(judged) // 2  # the first is timed, and texts of middle length say most

    def score(model: nn.Module) -> float:
        assert task is not None
        return task.score(Encoder(model, tokenizer).encode)

    named: dict[str, Any] = {} if task is None else {"evaluate": score, "metric": task.name}
    return CompressData(
        calibration=_spread(learnt, how.calibration),
        training=Batches(learnt, how.seed),
        evaluation=judged[middle:] + judged[:middle],
        **named,
    )


def _encoder_batches(tokenizer: Any, texts: Sequence[str], how: Text) -> list[dict[str, Tensor]]:
    ordered = sorted(texts, key=lambda text: (len(text), text))  # those of a length together: little padding
    options = {"padding": True, "truncation": True, "max_length": how.tokens, "return_tensors": "pt"}
    groups = [ordered[start : start + how.batch] for start in range(0, len(ordered), how.batch)]
    return [dict(tokenizer(group, **options)) for group in groups]


def _spread(given: Any, count: int) -> Any:
    """So many of them, evenly from first to last; all where there are fewer."""
    if len(given) <= count:
        return list(given)
    return [given[i * len(given) // count] for i in range(count)]
