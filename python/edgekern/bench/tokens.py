"""How fast language models read and write, in the terms of llama.cpp's llama-bench.

``pp512`` is a prompt of 512 tokens read in one call, whose last token alone is given logits; ``tg128`` is 128 tokens
written one after the other, from a context of two tokens on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from edgekern.bench.decode import write
from edgekern.bench.joules import Joules, Span, measured


@dataclass(frozen=True)
class TokenCosts:
    """What tokens of one test took one model: a figure for each repeat."""

    rates: list[float] = field(default_factory=list)
    """Tokens a second."""
    joules: list[float | None] = field(default_factory=list)
    """Joules a token; None where they were not measured."""

    @property
    def mean_joules(self) -> float | None:
        """Joules a token over all repeats; None unless all of them were measured."""
        known = [spent for spent in self.joules if spent is not None]
        return sum(known) / len(known) if known and len(known) == len(self.joules) else None


def token_rates(
    models: Mapping[str, nn.Module],
    vocabulary: int,
    prompts: Sequence[int] = (512,),
    writes: Sequence[int] = (128,),
    repeats: int = 5,
) -> dict[str, dict[str, list[float]]]:
    """Tokens a second alone of what ``token_costs`` measures, by test and model."""
    costs = token_costs(models, vocabulary, prompts, writes, repeats)
    return {test: {name: found.rates for name, found in by_model.items()} for test, by_model in costs.items()}


@torch.inference_mode()
def token_costs(
    models: Mapping[str, nn.Module],
    vocabulary: int,
    prompts: Sequence[int] = (512,),
    writes: Sequence[int] = (128,),
    repeats: int = 5,
    joules: Joules | None = None,
) -> dict[str, dict[str, TokenCosts]]:
    """Tokens a second of several models, in turns, so that other work on the machine is unfair to none of them.

    Args:
        models: by name; each called as ``model(input_ids=, past_key_values=, use_cache=True)``, in eval mode.
        vocabulary: tokens that all models know; prompts are random.
        prompts: lengths of prompts to read; 0 is left out.
        writes: numbers of tokens to write; 0 is left out.
        repeats: of every test with every model, at least 1, after one that does not count.
        joules: to measure energy with; None leaves it out.

    Returns:
        By test, as ``"pp512"``, and model.

    Raises:
        ValueError: no models, no tests, or an argument out of range.
    """
    counts = [*prompts, *writes]
    if not models or repeats < 1 or not any(counts) or min(counts) < 0:
        raise ValueError(
            f"expected models, lengths >= 0 of which one is not 0, and repeats >= 1; "
            f"got {len(models)} models, prompts {list(prompts)}, writes {list(writes)}, repeats {repeats}"
        )
    ids = torch.randint(vocabulary, (1, max([*prompts, 1])), generator=torch.Generator().manual_seed(0))
    tests: dict[str, tuple[int, Callable[..., Span]]] = {}
    tests.update({f"pp{count}": (count, partial(_read, ids=ids[:, :count])) for count in prompts if count})
    tests.update({f"tg{count}": (count, partial(write, prompt=ids[:, :1], tokens=count)) for count in writes if count})
    costs = {test: {name: TokenCosts() for name in models} for test in tests}
    order = list(models)
    for test, (count, run) in tests.items():
        for turn in range(repeats + 1):
            for name in order:
                span = run(models[name], joules=joules if turn else None)
                if turn:  # the first warms up
                    costs[test][name].rates.append(count / span.seconds)
                    costs[test][name].joules.append(None if span.joules is None else span.joules / count)
            order.reverse()
    return costs


def _read(model: nn.Module, ids: Tensor, joules: Joules | None) -> Span:
    """One call with the whole prompt."""
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    with measured(joules) as span:
        model(input_ids=ids, use_cache=True, **last)
    return span
