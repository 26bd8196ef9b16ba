"""`edgekern generate`: a language model's answer, token by token, and how fast it came."""

from __future__ import annotations

import sys
from pathlib import Path

from ..integrations.transformers import generate, load_language_model, progress_bars


def run(folder: Path, prompt: str, most: int, raw: bool) -> None:
    """Prints what the model writes, at each step the likeliest token, and then, to stderr, tokens a second.

    Raises:
        ValueError: an empty prompt.
    """
    if not prompt.strip():
        raise ValueError("--prompt: expected some text, got none")
    with progress_bars(False):
        loaded = load_language_model(folder)
    ids = loaded.ids(prompt) if raw or not loaded.tokenizer.chat_template else loaded.chat(prompt)
    speed = generate(loaded, ids, most, lambda text: print(text, end="", flush=True))
    print()
    print(f"prompt {speed.prompt_tokens} tokens, {speed.prompt_rate:.1f} tokens/s", file=sys.stderr)
    if speed.tokens > 1:
        print(f"decode {speed.tokens - 1} tokens, {speed.rate:.1f} tokens/s", file=sys.stderr)
