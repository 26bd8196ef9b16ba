"""The config of a Hugging Face model, made to describe what is left of the model."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from edgekern.calibration.program import call_model
from edgekern.prune.structured.cut import Cut, Journal
from edgekern.prune.structured.trial import close

# What a config calls its sizes; where a model's own has another name for one, its attribute_map says so.
_HEADS = ("num_attention_heads", "num_key_value_heads")
_STREAM = ("hidden_size", "word_embed_proj_dim")
_INNER = ("intermediate_size", "n_inner", "ffn_dim", "d_ff")


def mend_config(journal: Journal, model: nn.Module, cuts: Iterable[Cut], batch: Any) -> str:
    """Gives a Hugging Face model a config of its new sizes, where one can describe it; otherwise the old one stays.

    Whether it can is tried: a model built from the config as it would be stored, with the same tensors, has to give the
    same for a batch. The old config stays as it is, since other models may have it too.

    Args:
        journal: of the model, from which the cuts are taken out already.
        model: any; nothing happens to one without such a config.
        cuts: what was taken out.
        batch: as for ``shrink_``.

    Returns:
        What became of the config, for people to read; empty where there is none.
    """
    old: Any = getattr(model, "config", None)
    if not hasattr(old, "from_dict"):
        return ""
    new = _resized(old, cuts)
    with journal.trying():
        journal.exchange_config(old, new)
        fits = _builds(model, batch)
    if not fits:
        return f"its {type(old).__name__} stays as it was: no sizes in it describe this model"
    journal.exchange_config(old, new)
    before, after = vars(old), vars(new)
    changed = [f"{name} {before.get(name)} -> {after[name]}" for name in after if after[name] != before.get(name)]
    return f"its {type(old).__name__}: {', '.join(changed)}"


def _resized(old: Any, cuts: Iterable[Cut]) -> Any:
    """A copy with other sizes, which may go together or not."""
    new = copy.deepcopy(old)
    sizes = vars(new)  # setting them one by one, some configs check that they go together
    own = getattr(old, "attribute_map", {})
    for cut in cuts:
        group, left = cut.group, int(cut.kept.sum())
        for name in _HEADS if group.kind == "heads" else _STREAM if group.mixing else _INNER:
            before = getattr(old, name, None)
            if group.kind == "heads" and isinstance(before, int):
                sizes[own.get(name, name)] = before * left // group.size
            elif before == group.size * group.width:
                sizes[own.get(name, name)] = left * group.width
    if (width := _head_dim(old)) != _head_dim(new):
        sizes[own.get("head_dim", "head_dim")] = width  # heads stay as wide as they are
    return new


def _head_dim(config: Any) -> int | None:
    """The width of a head, which is that of the model divided by their number where a config does not say."""
    width, heads = (getattr(config, name, None) for name in ("hidden_size", "num_attention_heads"))
    given: int | None = getattr(config, "head_dim", None)
    return width // heads if given is None and isinstance(width, int) and isinstance(heads, int) else given


def _builds(model: Any, batch: Any) -> bool:
    """Whether the model's config, stored and read again, builds it."""
    config = model.config
    try:
        stored = type(config).from_dict(config.to_dict(), attn_implementation=config._attn_implementation)
        with torch.random.fork_rng(devices=[]):
            like = type(model)(stored)
        like.load_state_dict(model.state_dict(), assign=True)
        found, wanted = call_model(like, batch), call_model(model, batch)
    except Exception:  # of any kind: sizes that do not go together are noticed by configs, by models, or by torch
        return False
    return [each.shape for each in found] == [each.shape for each in wanted] and all(map(close, found, wanted))
