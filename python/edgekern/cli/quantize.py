"""`edgekern quantize`: a Hugging Face model converted while it is read, and saved."""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..config import Config, check_config, read_config, scheme_from_dict, write_config

CONFIG_FILE = "edgekern.toml"


def choose(scheme: str | None, file: Path | None) -> Config:
    """The configuration that the options ask for.

    Raises:
        ValueError: both or neither were given, or what was given is not for conversion.
        OSError: the file cannot be read.
    """
    if (scheme is None) == (file is None):
        raise ValueError("quantize takes --config FILE or --scheme NAME, and one of them")
    try:
        return check_config(scheme_from_dict({"format": scheme}) if file is None else read_config(file))
    except TypeError as error:
        raise ValueError(f"{file or f'--scheme {scheme}'}: {error}") from None


def run(folder: Path, output: Path, config: Config) -> None:
    """Writes the converted model, its tokenizer and the configuration; the folder appears whole or not at all.

    Raises:
        FileExistsError: ``output`` exists.
        ValueError: the model cannot be converted, or is incomplete.
    """
    if output.exists():
        raise FileExistsError(f"OUT: {output} exists already; remove it, or give another name")
    output.parent.mkdir(parents=True, exist_ok=True)
    from ..convert import explain
    from ..integrations.transformers import load_model, load_tokenizer, progress_bars

    start = time.perf_counter()
    with progress_bars(sys.stderr.isatty()):
        tokenizer, model = load_tokenizer(folder), load_model(folder, config)
        _save(model, tokenizer, config, output)
    report = explain(model)
    for row in report.skipped:
        print(f"left alone: {row.name}: {row.reason}")
    print(report.totals)
    print(f"Written to {output} in {time.perf_counter() - start:.1f} s, peak memory {_peak_bytes() / 1e6:,.0f} MB")


def _save(model: Any, tokenizer: Any, config: Config, output: Path) -> None:
    made = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        model.save_pretrained(made)
        if tokenizer is not None:
            tokenizer.save_pretrained(made)
        write_config(config, made / CONFIG_FILE)
        made.chmod(0o755)  # mkdtemp's is for its owner alone
        made.rename(output)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _peak_bytes() -> int:
    """Most memory that this process had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
