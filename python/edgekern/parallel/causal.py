"""Causal language models of the Llama family, as Hugging Face transformers builds them, as chains.

A stage is the model's own class with fewer layers, so every rank computes what the whole model would. transformers is
not imported: whoever has such a model has it loaded.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekern.parallel.chain import Chain, Stage, Unit, copy_tree

KINDS = ("llama", "mistral", "qwen2", "qwen3")
"""Models whose forward is embedding, layers, norm and head, and nothing else; each is tested."""


class CausalStage(Stage):
    """Some layers of a language model, with the embedding before them or the norm and the head behind them.

    Attributes:
        first: whether it takes token ids; otherwise hidden states.
        last: whether it gives logits; otherwise hidden states.
    """

    def __init__(self, base: nn.Module, head: nn.Module | None, *, first: bool, last: bool, layers: int) -> None:
        super().__init__()
        self.base, self.head = base, head
        self.first, self.last, self.layers = first, last, layers

    def run(self, x: Tensor, cache: Any = None, **options: Any) -> tuple[Tensor, Any]:
        """Hidden states or logits, and the cache.

        Args:
            x: token ids int64 [B, T], or hidden states [B, T, width].
            cache: what the last call gave, for the tokens before these; None when there are none.
            options: ``attention_mask`` int64 [B, tokens so far], 0 for padding, or None; ``position_ids`` int64 [B, T],
                or None; ``logits`` how many of the last tokens get logits, 0 for all; None for hidden
                states alone.
        """
        mask, positions, logits = (options.get(name) for name in ("attention_mask", "position_ids", "logits"))
        if self.layers:
            given = {"input_ids": x} if self.first else {"inputs_embeds": x}
            output = self.base(
                **given, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
            x, cache = output.last_hidden_state, output.past_key_values
        else:  # the model's forward wants layers
            base = cast(Any, self.base)
            x = base.norm(base.embed_tokens(x) if self.first else x)
        if self.head is not None and logits is not None:
            x = self.head(x[:, -logits:] if logits else x)
        return x, cache


class CausalChain(Chain):
    """A language model: the embedding, each layer, and norm and head are its units."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._base = cast(Any, model).model
        self.layers = len(self._base.layers)
        embedding = Unit("model.embed_tokens", ("model.embed_tokens",))
        layers = [Unit(f"model.layers.{i}", (f"model.layers.{i}", "model.rotary_emb")) for i in range(self.layers)]
        self.units = (embedding, *layers, Unit("lm_head", ("model.norm", "lm_head")))

    @property
    def width(self) -> int:
        """Of hidden states."""
        return int(cast(Any, self.model).config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """Of hidden states."""
        embedding = self._base.embed_tokens
        return embedding.dtype if hasattr(embedding, "dtype") else embedding.weight.dtype

    def stage(self, first: int, last: int) -> CausalStage:
        begin, end = max(first - 1, 0), min(last - 1, self.layers)
        config = copy.copy(self._base.config)
        kinds = getattr(config, "layer_types", None)
        if kinds is not None:
            config.layer_types = list(kinds)[begin:end]
        config.num_hidden_layers = end - begin
        base = copy_tree(self._base)
        cast(Any, base).config = config
        layers = [copy_tree(layer) for layer in list(self._base.layers)[begin:end]]
        for number, layer in enumerate(layers):
            for module in layer.modules():
                if module._modules and hasattr(module, "layer_idx"):
                    cast(Any, module).layer_idx = number  # a stage's cache begins with its own first layer
        base._modules["layers"] = nn.ModuleList(layers)
        is_first, is_last = first == 0, last == len(self.units)
        if not is_first:
            base._modules["embed_tokens"] = nn.Identity()
        if not is_last:
            base._modules["norm"] = nn.Identity()
        if not layers:
            base._modules["rotary_emb"] = nn.Identity()
        head = cast(Any, self.model).lm_head if is_last else None
        return CausalStage(base, head, first=is_first, last=is_last, layers=end - begin).eval()
