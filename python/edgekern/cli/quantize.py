"""`edgekern quantize`: a Hugging Face model converted while it is read, and saved."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

from ..config import Config, check_config, needing_data, read_config, scheme_from_dict, write_config

CONFIG_FILE = "edgekern.toml"
WINDOWS, TOKENS = 2, 256  # of text, to see by what each layer loses
CALIBRATION_WINDOWS, CALIBRATION_TOKENS = 8, 512  # to find ranges of activations by
_ONE_OF_THEM = "quantize takes --config FILE, --scheme NAME or --budget AMOUNT, and one of them"


def check_one(scheme: str | None, file: Path | None, budget: str | None) -> None:
    """ValueError when several of the options were given."""
    if sum(option is not None for option in (scheme, file, budget)) > 1:
        raise ValueError(_ONE_OF_THEM)


def check_output(output: Path) -> None:
    """FileExistsError when it exists."""
    if output.exists():
        raise FileExistsError(f"OUT: {output} exists already; remove it, or give another name")


def choose(scheme: str | None, file: Path | None, text: Path | None = None) -> Config | None:
    """The configuration that one of these options asks for; None where neither was given.

    Raises:
        ValueError: what was given is not for conversion, or a text was that nobody would read.
        OSError: the file cannot be read.
    """
    config = None
    try:
        if scheme is not None or file is not None:
            config = check_config(scheme_from_dict({"format": scheme}) if file is None else read_config(file))
    except TypeError as error:
        raise ValueError(f"{file or f'--scheme {scheme}'}: {error}") from None
    if text is not None and (config is None or needing_data(config) is None):
        raise ValueError("--text has no effect without --budget or a configuration that calibrates")
    return config


def within(folder: Path, budget: str, text: Path | None) -> Config:
    """The schemes that a budget leaves to each layer; of time, for one token at a call.

    Raises:
        OSError: the text cannot be read.
        ValueError: a budget that cannot be read or met; a text that is no UTF-8, or shorter than a window.
        MissingDataError: no text was given, and the package with the prose is not installed.
    """
    from ..integrations.transformers import load_language_model, progress_bars
    from ..sensitivity import allocate, parse_budget
    from .texts import prose

    parse_budget(budget)  # before anything that takes long
    read = prose(text)
    with progress_bars(False):
        loaded = load_language_model(folder)
    return allocate(loaded.model, budget, _batches(loaded, read, TOKENS, WINDOWS), rows=1)


def _batches(loaded: Any, text: str, tokens: int, count: int) -> list[dict[str, Any]]:
    """So many windows of a text, each a batch; ValueError for a text that is shorter."""
    from ..evaluate import windows

    longest = getattr(loaded.model.config, "max_position_embeddings", tokens)
    cut = windows(loaded.ids(text), min(tokens, longest), count)
    return [{"input_ids": window[None], "use_cache": False} for window in cut]


def _calibrated(folder: Path, config: Config, text: Path | None) -> tuple[Any, Any]:
    """Tokenizer and model, which was read as floats and converted when it had run on a text."""
    from ..convert import convert_
    from ..integrations.transformers import adopt_, load_language_model
    from .texts import prose

    read = prose(text)
    loaded = load_language_model(folder)
    data = _batches(loaded, read, CALIBRATION_TOKENS, CALIBRATION_WINDOWS)
    convert_(loaded.model, config, data=data, progress=sys.stderr.isatty())
    adopt_(loaded.model, config)
    return loaded.tokenizer, loaded.model


def run(folder: Path, output: Path, config: Config | None, layout: str, text: Path | None = None) -> None:
    """Writes the converted model, its tokenizer and the configuration; the folder appears whole or not at all.

    Args:
        folder: of a float model, or of one that is converted, whose integers stay what they are.
        output: the folder to write.
        config: what to convert a float model to.
        layout: "edgekern" or "compressed-tensors".
        text: what to find static ranges of activations by, where the configuration has any; Wikipedia's prose
            otherwise. The model is then in memory as floats.

    Raises:
        ValueError: the model cannot be converted, or is incomplete; no configuration for a float model, or one for a
            converted model; a text to calibrate by that cannot be read, or is too short.
    """
    from ..convert import explain
    from ..integrations.transformers import load_model, load_tokenizer, progress_bars

    _check_source(folder, config)
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with progress_bars(sys.stderr.isatty()):
        if config is not None and needing_data(config) is not None:
            tokenizer, model = _calibrated(folder, config, text)
        else:
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
    from ..checkpoint.atomic import folder_written_whole
    from ..integrations.saving import save_converted

    with folder_written_whole(output) as made:
        if layout == "compressed-tensors":
            from ..integrations.compressed_tensors import save_compressed

            save_compressed(model, made)
        else:
            save_converted(model, made)
        if tokenizer is not None:
            tokenizer.save_pretrained(made)
        write_config(model.config.quantization_config.config, made / CONFIG_FILE)


def _peak_bytes() -> int:
    """Most memory that this process had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
