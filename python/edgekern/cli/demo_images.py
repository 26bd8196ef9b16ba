"""`edgekern demo --model efficientnet`: a real image classifier from ImageNet weights to one native call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

import edgekern as ek

from ..bench import Joules
from ..bench.interleave import interleave
from ..evaluate.images import ImageClassifier, Photograph, efficientnet_lite0, imagenet_photographs
from ..machine import describe_machine
from ..report.demo_images import Guess, ImageDemoResult, Timing, guess_table, image_demo_table
from .demo_parts import Step, progress, save_and_load, show, write

BATCHES = (1, 8)
MOST_LOST = 1  # of the photographs; rounding to int8 turns close calls, and there are twenty


def run(quick: bool, output: Path) -> ImageDemoResult:
    """Runs the demo, prints the tables, and writes demo.json and explain.txt into the folder `output`.

    The result's "failures" says what went wrong: photographs that are no longer recognised, or a reloaded model that
    answers differently.

    Raises:
        MissingDataError: the model's, its code's or the photographs' package is not installed.
        OSError: `output` cannot be written.
    """
    console = Console()
    with progress(console, total=7) as step:
        result, explained = _measure(quick, step)
    write(result, explained, output)
    show(result, [image_demo_table(result), guess_table(result)], console)
    console.print(f"Written to {output}: demo.json, explain.txt")
    return result


def _measure(quick: bool, step: Step) -> tuple[ImageDemoResult, str]:
    machine = describe_machine()  # before the demo adds to the machine's load itself
    step("Loading EfficientNet-Lite0 and photographs")
    dense, int8 = efficientnet_lite0().model, efficientnet_lite0()
    photographs = imagenet_photographs()
    images = int8.pixels(photographs).to(memory_format=torch.channels_last)

    step("Fusing normalisations and activations into the convolutions")
    start = time.perf_counter()
    fused = ek.fuse_(int8.model, images[:1])
    step("Converting to int8, with ranges of the photographs")
    report = ek.convert_(int8.model, ek.Int8(activations="static"), data=images.split(4), progress=False)
    linked = ek.link_(int8.model)
    step("Freezing its convolutions into one call")
    frozen = ek.freeze(int8.model, images[:1], uint8_sums=True)
    regions = vars(frozen)["report"]
    seconds = time.perf_counter() - start

    step("Recognising photographs")
    models: dict[str, nn.Module] = {"fp32": dense, "int8": int8.model, "frozen": frozen}
    scores = {name: _scores(model, images) for name, model in models.items()}
    step("Timing float32, int8 and frozen in turn")
    joules = Joules()
    latency = [_time(models, images[:batch], quick, joules) for batch in BATCHES]
    step("Saving and loading back")
    checkpoint_bytes, identical = _round_trip(int8, images)

    labels = torch.tensor([each.label for each in photographs])
    right = {name: int((found.argmax(1) == labels).sum()) for name, found in scores.items()}
    same = {name: int((found.argmax(1) == scores["fp32"].argmax(1)).sum()) for name, found in scores.items()}
    result: ImageDemoResult = {
        "kind": "demo-images",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "quick": quick,
        "machine": machine,
        "model": "EfficientNet-Lite0",
        "layers": len(report),
        "converted": len(report.converted),
        "linked": len(linked.linked),
        "frozen": len(regions.frozen),
        "size": {"fp32": report.bytes_before, "int8": report.bytes_after},
        "photographs": len(photographs),
        "right": right,
        "same": same,
        "guesses": _guesses(photographs[0], scores),
        "latency": latency,
        "energy": joules.to_dict(),
        "convert_seconds": seconds,
        "checkpoint_bytes": checkpoint_bytes,
        "reload_identical": identical,
        "failures": _failures(right, identical),
    }
    explained = "\n\n".join(str(each) for each in (fused, linked, regions, ek.explain(int8.model)))
    return result, explained


@torch.inference_mode()
def _scores(model: nn.Module, images: Tensor) -> Tensor:
    found: Tensor = model(images)
    return found


def _time(models: dict[str, nn.Module], images: Tensor, quick: bool, joules: Joules) -> Timing:
    calls = {name: lambda model=model: model(images) for name, model in models.items()}
    with torch.inference_mode():
        timed = interleave(calls, rounds=4 if quick else 20, joules=joules)
    return {"batch": len(images), "models": {name: each.to_dict() for name, each in timed.items()}}


def _guesses(photograph: Photograph, scores: dict[str, Tensor]) -> Guess:
    """The five likeliest classes of the first photograph, and how likely they are."""
    likely = {name: found[0].softmax(0).topk(5) for name, found in scores.items()}
    top5 = {name: list(zip(top.indices.tolist(), top.values.tolist(), strict=True)) for name, top in likely.items()}
    return {"file": photograph.path.name, "label": photograph.label, "top5": top5}


def _round_trip(int8: ImageClassifier, images: Tensor) -> tuple[int, bool]:
    """Saves the converted model and loads it into a fresh one: bytes on disk, and whether outputs agree bit for bit."""
    fresh = efficientnet_lite0().model
    ek.fuse_(fresh, images[:1])
    size = save_and_load(int8.model, fresh)
    ek.link_(fresh)
    return size, torch.equal(_scores(int8.model, images[:2]), _scores(fresh, images[:2]))


def _failures(right: dict[str, int], identical: bool) -> Sequence[str]:
    failures = [
        f"{name} recognises {right[name]} photographs, and float32 {right['fp32']}: more than {MOST_LOST} lost"
        for name in ("int8", "frozen")
        if right["fp32"] - right[name] > MOST_LOST
    ]
    return failures if identical else [*failures, "the model loaded back from disk gives other outputs"]
