"""How fast language models write, one token at a time."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor, nn

from edgekern.bench.joules import Joules, Span, measured


@torch.inference_mode()
def decode_in_turns(
    models: Mapping[str, nn.Module], prompt: Tensor, tokens: int = 32, rounds: int = 7
) -> dict[str, float]:
    """Tokens a second of several models, in turns, so that other work on the machine is unfair to none of them.

    In every turn a model reads the prompt, writes one token that is not timed, and then writes ``tokens`` of them: each
    the likeliest, one row (M = 1) a step, with the keys and values of those before kept. All models write the tokens
    that they choose themselves; those that differ take the same time. Every other round goes backwards.

    Args:
        models: by name; each called as ``model(input_ids=, past_key_values=, use_cache=True)``, in eval mode.
        prompt: int64 [1, length].
        tokens: timed in each turn, at least 1.
        rounds: of turns, at least 1; the median counts. One more comes first and does not.

    Raises:
        ValueError: no models, or an argument out of range.
    """
    if not models or tokens < 1 or rounds < 1 or prompt.ndim != 2 or len(prompt) != 1 or not prompt.numel():
        raise ValueError(
            f"expected models, a prompt [1, length], tokens >= 1 and rounds >= 1; "
            f"got {len(models)} models, a prompt {list(prompt.shape)}, {tokens} tokens and {rounds} rounds"
        )
    speeds: dict[str, list[float]] = {name: [] for name in models}
    order = list(models)
    for turn in range(rounds + 1):
        for name in order:
            span = write(models[name], prompt, tokens)
            if turn:  # the first warms up
                speeds[name].append(tokens / span.seconds)
        order.reverse()
    return {name: median(found) for name, found in speeds.items()}


def write(model: nn.Module, prompt: Tensor, tokens: int, joules: Joules | None = None) -> Span:
    """Seconds, and joules if they can be measured, for that many tokens after the prompt and one more."""
    ids, cache = _step(model, prompt, None)
    ids, cache = _step(model, ids, cache)
    with measured(joules) as span:
        for _ in range(tokens):
            ids, cache = _step(model, ids, cache)
    return span


def _step(model: nn.Module, ids: Tensor, cache: object) -> tuple[Tensor, object]:
    output = model(input_ids=ids, past_key_values=cache, use_cache=True)
    return output.logits[:, -1:].argmax(-1), output.past_key_values
