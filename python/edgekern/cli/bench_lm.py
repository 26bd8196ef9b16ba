"""`edgekern bench lm`: how many tokens a second language models read and write, and at how many joules."""

from __future__ import annotations

import csv
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, cast

import torch
from torch import nn

from ..bench import Joules, token_costs
from ..config import check_config, scheme_from_dict
from ..integrations.transformers import is_converted, load_model, progress_bars
from ..machine import describe_machine
from ..nn.layers import find_layers
from ..report.energy import energy_note, joules_text
from ..summary import size_text

STORED = "stored"
TORCH_INT8 = "torch-int8"
_DTYPES = ("float32", "bfloat16", "float16")
_COLUMNS = ("model", "weights", "size", "threads", "test", "t/s", "J/token")


def measure(
    folders: Sequence[Path],
    weights: Sequence[str],
    prompts: Sequence[int],
    writes: Sequence[int],
    threads: Sequence[int],
    repeats: int,
) -> dict[str, Any]:
    """Loads every folder with every kind of weights, all of them at once, and times them in turns.

    Args:
        folders: of Hugging Face models.
        weights: "stored"; "float32", "bfloat16", "float16"; "torch-int8" for torch's quantize_dynamic of float32; or
            the name of a scheme that `convert_` takes, with its defaults. Of a converted model only the stored are.
        prompts: lengths of the prompts to read.
        writes: numbers of tokens to write.
        threads: numbers of threads to measure with; 0 for those that torch has now.
        repeats: of each test.

    Raises:
        ValueError: unknown weights.
    """
    for kind in weights:
        _check(kind)
    machine = describe_machine()  # before the measurement adds to the machine's load itself
    kinds = {folder: [STORED] if is_converted(folder) else weights for folder in folders}
    variants = [(folder, kind) for folder in folders for kind in kinds[folder]]
    with progress_bars(False):
        models = {str(index): _load(folder, kind) for index, (folder, kind) in enumerate(variants)}
    vocabulary = min(cast(Any, model).config.vocab_size for model in models.values())
    rows = []
    default = torch.get_num_threads()
    joules = Joules()
    for count in threads:
        torch.set_num_threads(count or default)
        costs = token_costs(models, vocabulary, prompts, writes, repeats, joules)
        for index, (folder, kind) in enumerate(variants):
            for test, found in costs.items():
                samples = found[str(index)].rates
                rows.append(
                    {
                        "model": folder.name,
                        "weights": kind,
                        "bytes": _bytes(models[str(index)]),
                        "threads": count or default,
                        "test": test,
                        "tokens_per_second": mean(samples),
                        "deviation": stdev(samples) if len(samples) > 1 else 0.0,
                        "samples": samples,
                        "joules_per_token": found[str(index)].mean_joules,
                    }
                )
    return {"kind": "bench_lm", "machine": machine, "energy": joules.to_dict(), "rows": rows}


def show(result: Mapping[str, Any], form: str) -> None:
    """Prints a result of `measure` as "md", "csv", "json" or "jsonl"; a line of jsonl holds everything there is."""
    rows, machine, energy = result["rows"], result["machine"], result["energy"]
    if form == "json":
        print(json.dumps(result, indent=2))
    elif form == "jsonl":
        for row in rows:
            print(json.dumps({"kind": result["kind"], **row, "machine": machine, "energy": energy}))
    elif form == "csv":
        names = [name for name in rows[0] if name != "samples"]
        writer = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        print(energy_note(energy), file=sys.stderr)  # not among the rows
    else:
        cells = [_COLUMNS, *map(_cells, rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in cells]
        print("\n".join([lines[0], f"| {' | '.join('-' * width for width in widths)} |", *lines[1:]]))
        print(f"\n{machine['cpu']}, {machine['isa']}, torch {machine['versions']['torch']}\n{energy_note(energy)}")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    rate = f"{row['tokens_per_second']:.2f} ± {row['deviation']:.2f}"
    known = (row["model"], row["weights"], size_text(row["bytes"]), str(row["threads"]), row["test"], rate)
    return (*known, joules_text(row["joules_per_token"]))


def _check(kind: str) -> None:
    if kind in (STORED, TORCH_INT8, *_DTYPES):
        return
    try:
        check_config(scheme_from_dict({"format": kind}))
    except (TypeError, ValueError) as error:
        others = ", ".join((STORED, *_DTYPES, TORCH_INT8))
        raise ValueError(f"--as {kind}: expected {others}, or a scheme that convert_ takes: {error}") from None


def _load(folder: Path, kind: str) -> nn.Module:
    if kind == STORED:
        return load_model(folder)
    if kind in _DTYPES:
        return load_model(folder, dtype=kind)
    if kind != TORCH_INT8:
        return load_model(folder, scheme_from_dict({"format": kind}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces a successor
        model = load_model(folder, dtype="float32")
        return cast(nn.Module, torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8))


def _bytes(model: nn.Module) -> int:
    """Bytes of all weights as they are in memory."""
    tensors = {id(tensor): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    layers = find_layers(model, tables=True)
    native = sum(layer.native.packed_bytes for layer in layers if layer.native)
    foreign = sum(layer.dense_bytes for layer in layers if not layer.native and not layer.module._parameters)
    return sum(tensors.values()) + native + foreign
