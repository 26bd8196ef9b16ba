"""`edgekern demo`: what int8 does to a real text encoder's size, speed and quality."""

from __future__ import annotations

import copy
import time
from datetime import datetime, timezone
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

import edgekern as ek

from ..bench import Joules
from ..bench.interleave import interleave
from ..evaluate import Encoder, SimilarityTask, load_lee50, load_minilm, load_simlex999, load_wordsim353
from ..machine import describe_machine
from ..report.chart import draw_demo
from ..report.demo import BatchTiming, DemoResult, Pair, demo_table
from ..summary import Report
from .demo_parts import Step, progress, save_and_load, show, write

BATCHES, SEQUENCE = (1, 32), 128
MAX_QUALITY_LOSS = 0.01  # in correlation; rounding to int8 moves it by a tenth of that


def run(quick: bool, output: Path) -> DemoResult:
    """Runs the demo, prints the table, and writes demo.json, demo.png and explain.txt into the folder `output`.

    The result's "failures" says what went wrong: quality lost, or a reloaded model that answers differently.

    Raises:
        MissingDataError: the model's or the texts' package is not installed.
        OSError: `output` cannot be written.
    """
    console = Console()
    with progress(console, total=5 + len(BATCHES)) as step:
        result, report = _measure(quick, step)
    write(result, report, output)
    draw_demo(result, output / "demo.png")
    show(result, [demo_table(result)], console)
    console.print(f"Written to {output}: demo.json, demo.png, explain.txt")
    return result


def _measure(quick: bool, step: Step) -> tuple[DemoResult, Report]:
    machine = describe_machine()  # before the demo adds to the machine's load itself
    step("Loading MiniLM and the labelled texts")
    encoder = load_minilm()
    tasks = [load_lee50(), load_wordsim353()] + ([] if quick else [load_simlex999()])
    dense = encoder.model

    step("Converting to int8")
    start = time.perf_counter()
    converted = copy.deepcopy(dense)
    report = ek.convert_(converted, ek.Int8())
    convert_seconds = time.perf_counter() - start
    int8 = Encoder(converted, encoder.tokenizer)

    step("Scoring float32")
    dense_scores = _scores(encoder, tasks)
    step("Scoring int8")
    int8_scores = _scores(int8, tasks)
    quality: dict[str, Pair] = {name: {"fp32": dense_scores[name], "int8": int8_scores[name]} for name in dense_scores}

    latency, joules = [], Joules()
    for batch in BATCHES:
        step(f"Timing batch {batch}, float32 and int8 in turn")
        latency.append(_time(encoder, converted, batch, quick, joules))

    step("Saving and loading back")
    checkpoint_bytes, identical = _round_trip(int8)
    return {
        "kind": "demo",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "quick": quick,
        "machine": machine,
        "model": "MiniLM-L6",
        "layers": len(report),
        "converted": len(report.converted),
        "size": _sizes(dense, report),
        "quality": quality,
        "latency": latency,
        "energy": joules.to_dict(),
        "convert_seconds": convert_seconds,
        "checkpoint_bytes": checkpoint_bytes,
        "reload_identical": identical,
        "failures": _failures(quality, identical),
    }, report


def _scores(encoder: Encoder, tasks: list[SimilarityTask]) -> dict[str, float]:
    return {task.name: task.score(encoder.encode) for task in tasks}


def _time(encoder: Encoder, converted: nn.Module, batch: int, quick: bool, joules: Joules) -> BatchTiming:
    inputs = encoder.random_inputs(batch, SEQUENCE)
    calls = {"fp32": lambda: encoder.model(**inputs), "int8": lambda: converted(**inputs)}
    with torch.inference_mode():
        timed = interleave(calls, rounds=4 if quick else 20, joules=joules)
    return {"batch": batch, "sequence": SEQUENCE, "fp32": timed["fp32"].to_dict(), "int8": timed["int8"].to_dict()}


def _sizes(dense: nn.Module, report: Report) -> dict[str, Pair]:
    """Bytes of the converted layers, and of every parameter and buffer of the model."""
    before = sum(row.bytes_before for row in report.converted)
    after = sum(row.bytes_after for row in report.converted)
    tensors = [*dense.parameters(), *dense.buffers()]
    model = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return {"linear": {"fp32": before, "int8": after}, "model": {"fp32": model, "int8": model - before + after}}


def _round_trip(int8: Encoder) -> tuple[int, bool]:
    """Saves the converted model and loads it into a fresh one: bytes on disk, and whether outputs agree bit for bit."""
    fresh = load_minilm().model
    size = save_and_load(int8.model, fresh)
    inputs = int8.random_inputs(2, SEQUENCE)
    with torch.inference_mode():
        expected, got = int8.model(**inputs).last_hidden_state, fresh(**inputs).last_hidden_state
    return size, torch.equal(expected, got)


def _failures(quality: dict[str, Pair], identical: bool) -> list[str]:
    failures = [
        f"{name} fell from {score['fp32']:.4f} to {score['int8']:.4f}, by more than {MAX_QUALITY_LOSS}"
        for name, score in quality.items()
        # Written so that a NaN score fails.
        if not score["fp32"] - score["int8"] <= MAX_QUALITY_LOSS
    ]
    return failures if identical else [*failures, "the model loaded back from disk gives other outputs"]
