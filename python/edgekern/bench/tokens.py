"""How fast language models read and write, in the terms of llama.cpp's llama-bench.

``pp512`` is a prompt of 512 tokens read in one call, whose last token alone is given logits; ``tg128`` is 128 tokens
written one after the other, from a context of two tokens on.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from edgekern.bench.decode import write


@torch.inference_mode()
def token_rates(
    models: Mapping[str, nn.Module],
    vocabulary: int,
    prompts: Sequence[int] = (512,),
    writes: Sequence[int] = (128,),
    repeats: int = 5,
) -> dict[str, dict[str, list[float]]]:
    """Tokens a second of several models, in turns, so that other work on the machine is unfair to none of them.

    Args:
        models: by name; each called as ``model(input_ids=, past_key_values=, use_cache=True)``, in eval mode.
        vocabulary: tokens that all models know; prompts are random.
        prompts: lengths of prompts to read; 0 is left out.
        writes: numbers of tokens to write; 0 is left out.
        repeats: of every test with every model, at least 1, after one that does not count.

    Returns:
        By test, as ``"pp512"``, and model: one figure a repeat.

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
    tests: dict[str, tuple[int, Callable[[nn.Module], float]]] = {}
    tests.update({f"pp{count}": (count, partial(_read, ids=ids[:, :count])) for count in prompts if count})
    tests.update({f"tg{count}": (count, partial(write, prompt=ids[:, :1], tokens=count)) for count in writes if count})
    rates: dict[str, dict[str, list[float]]] = {test: {name: [] for name in models} for test in tests}
    order = list(models)
    for test, (count, run) in tests.items():
        for turn in range(repeats + 1):
            for name in order:
                seconds = run(models[name])
                if turn:  # the first warms up
                    rates[test][name].append(count / seconds)
            order.reverse()
    return rates


def _read(model: nn.Module, ids: Tensor) -> float:
    """Seconds for one call with the whole prompt."""
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    start = time.perf_counter()
    model(input_ids=ids, use_cache=True, **last)
    return time.perf_counter() - start
