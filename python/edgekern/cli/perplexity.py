"""`edgekern eval`: perplexity of a language model."""

from __future__ import annotations

import json
import time
from pathlib import Path

from .texts import prose


def run(folder: Path, text: Path | None, tokens: int, most: int | None, as_json: bool) -> None:
    """Prints the perplexity on a text file, or on Wikipedia's prose when none is given.

    Raises:
        OSError: the text cannot be read.
        ValueError: the text is no UTF-8, or shorter than one window; or the model reads fewer tokens at once.
        MissingDataError: no text was given, and the package with the prose is not installed.
    """
    read = prose(text)
    from ..evaluate import perplexity, windows
    from ..integrations.transformers import load_language_model, progress_bars

    with progress_bars(False):
        loaded = load_language_model(folder)
    longest = getattr(loaded.model.config, "max_position_embeddings", None)
    if isinstance(longest, int) and tokens > longest:
        raise ValueError(f"--tokens: the model reads {longest} tokens at once, not {tokens}")
    cut = windows(loaded.ids(read), tokens, most)
    start = time.perf_counter()
    found = perplexity(loaded.model, cut)
    seconds = time.perf_counter() - start
    result = {
        "model": str(folder),
        "text": str(text or "Wikipedia prose (gensim)"),
        "windows": len(cut),
        "tokens": tokens,
        "perplexity": found,
        "seconds": round(seconds, 1),
    }
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print(f"perplexity {found:.3f} on {len(cut)} windows of {tokens} tokens of {result['text']}, {seconds:.1f} s")
