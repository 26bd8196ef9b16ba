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
_ONE_OF_THEM = "quantize takes --config FILE or --scheme NAME, and one of them"


def choose(scheme: str | None, file: Path | None) -> Config | None:
    """The configuration that the options ask for; None where none was given.

    Raises:
        ValueError: both were given, or what was given is not for conversion.
        OSError: the file cannot be read.
    """
    if scheme is None and file is None:
        return None
    if scheme is not None and file is not None:
        raise ValueError(_ONE_OF_THEM)
    try:
        return check_config(scheme_from_dict({"format": scheme}) if file is None else read_config(file))
    except TypeError as error:
        raise ValueError(f"{file or f'--scheme {scheme}'}: {error}") from None


def run(folder: Path, output: Path, config: Config | None, layout: str) -> None:
    """Writes the converted model, its tokenizer and the configuration; the folder appears whole or not at all.

    Args:
        folder: of a float model, or of one that is converted, whose integers stay what they are.
        output: the folder to write.
        config: what to convert a float model to.
        layout: "edgekern" or "compressed-tensors".

    Raises:
        FileExistsError: ``output`` exists.
        ValueError: the model cannot be converted, or is incomplete; no configuration for a float model, or one for a
            converted model.
    """
    if output.exists():
        raise FileExistsError(f"OUT: {output} exists already; remove it, or give another name")
    from ..convert import explain
    from ..integrations.transformers import load_model, load_tokenizer, progress_bars

    _check_source(folder, config)
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with progress_bars(sys.stderr.isatty()):
        tokenizer, model = load_tokenizer(folder), load_model(folder, config)
        _save(model, tokenizer, output, layout)
    report = explain(model)
    for row in report.skipped:
        print(f"left alone: {row.name}: {row.reason}")
    print(report.totals)
    print(f"Written to {output} in {time.perf_counter() - start:.1f} s, peak memory {_peak_bytes() / 1e6:,.0f} MB")


def _check_source(folder: Path, config: Config | None) -> None:
    """Raises ValueError unless there is something to convert, or something converted that is read as it is."""
    from ..checkpoint.compressed import METHOD as COMPRESSED_TENSORS
    from ..integrations.transformers import METHOD, stored_method

    method = stored_method(folder)
    if method is None and config is None:
        raise ValueError(_ONE_OF_THEM)
    if method is not None and method not in (METHOD, COMPRESSED_TENSORS):
        raise ValueError(f"MODEL: {folder} is stored as {method}; expected floats, {METHOD} or {COMPRESSED_TENSORS}")
    if method is not None and config is not None:
        raise ValueError(
            f"MODEL: {folder} is converted already, to {method}; its integers are kept, without --scheme and --config"
        )


def _save(model: Any, tokenizer: Any, output: Path, layout: str) -> None:
    from ..integrations.saving import save_converted

    made = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        if layout == "compressed-tensors":
            from ..integrations.compressed_tensors import save_compressed

            save_compressed(model, made)
        else:
            save_converted(model, made)
        if tokenizer is not None:
            tokenizer.save_pretrained(made)
        write_config(model.config.quantization_config.config, made / CONFIG_FILE)
        made.chmod(0o755)  # mkdtemp's is for its owner alone
        made.rename(output)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _peak_bytes() -> int:
    """Most memory that this process had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
