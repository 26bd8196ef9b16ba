"""Folders of transformers models that are compressed: what kind of model is in one, reading it, writing it again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from edgekern.config import Config, write_config
from edgekern.integrations.saving import save_converted
from edgekern.integrations.transformers import LOCAL, adopt_, load_model, progress_bars, stored_method

CAUSAL, ENCODER = "causal", "encoder"
CONFIG_FILE = "edgekern.toml"


def kind_of_folder(folder: str | os.PathLike[str]) -> str:
    """``CAUSAL`` for a language model, ``ENCODER`` for a model without a head.

    Raises:
        OSError: no model that transformers knows in ``folder``.
        ValueError: a model of another kind, or one that is converted already.
    """
    if (method := stored_method(folder)) is not None:
        raise ValueError(f"MODEL: {folder} is converted already, to {method}; compress the float model that it was")
    architectures = AutoConfig.from_pretrained(folder, **LOCAL).architectures or ["none"]
    name = architectures[0]
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return CAUSAL
    if name.endswith("Model"):
        return ENCODER
    raise ValueError(
        f"MODEL: {folder} holds the architecture {name}; expected a causal language model (...ForCausalLM) or an "
        "encoder (...Model). edgekern.compress(), from Python, takes any"
    )


def longest_of(folder: str | os.PathLike[str]) -> int | None:
    """How many tokens the model in a folder reads at once; None where its configuration does not say."""
    longest = getattr(AutoConfig.from_pretrained(folder, **LOCAL), "max_position_embeddings", None)
    return longest if isinstance(longest, int) else None


def load_floats(folder: str | os.PathLike[str], kind: str, dtype: str) -> PreTrainedModel:
    """The model of a kind, in eval mode; ``dtype`` as for ``load_model``."""
    with progress_bars(False):
        if kind == CAUSAL:
            return load_model(folder, dtype=dtype)
        return AutoModel.from_pretrained(folder, dtype=dtype, **LOCAL).eval()


def misfit(model: PreTrainedModel) -> str:
    """The first tensor that a model built from its config has in another shape; empty where there is none."""
    with torch.device("meta"):
        shapes = {name: list(tensor.shape) for name, tensor in type(model)(model.config).state_dict().items()}
    for name, tensor in model.state_dict().items():
        if list(tensor.shape) != shapes.get(name):
            return f"its {name} is {list(tensor.shape)}, and by its {type(model.config).__name__} {shapes.get(name)}"
    return ""


def save_folder(model: PreTrainedModel, tokenizer: Any, config: Config | None, folder: Path) -> None:
    """Writes what ``from_pretrained`` reads, and the configuration that the model was converted by.

    Args:
        model: a float one, or one that ``convert_`` has converted.
        tokenizer: written beside it; None where there is none.
        config: what the model was converted by; None for floats.
        folder: to write into.
    """
    if config is None:
        with progress_bars(False):
            model.save_pretrained(folder)
    else:
        adopt_(model, config)
        save_converted(model, folder)
        write_config(config, folder / CONFIG_FILE)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
