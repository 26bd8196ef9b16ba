"""Time convolutional networks, float32 images in and logits out: edgekern, torch, ONNX Runtime and OpenVINO.

Usage:

    python benchmarks/cnn.py                     five networks, batches of 1 and 8, 1 and 2 threads
    python benchmarks/cnn.py --quick             two of them, one image, a minute or two
    python benchmarks/cnn.py --cells 'resnet18-*' --rivals onnxruntime-int8-static --threads 2
    python benchmarks/cnn.py --layers            where edgekern's time goes, layer by layer; writes no results

The first run exports the networks to ONNX and quantises them, and keeps that in build/benchmarks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from harness.command import (
    Cells,
    Isa,
    Output,
    Rivals,
    Rounds,
    Seconds,
    Threads,
    Tier,
    caps,
    choose_cells,
    choose_rivals,
    run,
)
from harness.process import BENCHMARKS, Worker
from harness.subject import CONV_KINDS
from harness.table import Plan
from rivals.lm_task import FOLDER_VARIABLE

NETWORKS = ("efficientnet-lite0", "resnet18", "resnet50", "mobilenetv2", "mobilenetv3")
BATCHES = (1, 8)
OURS = (*(f"cnn-edgekern-{kind}" for kind in CONV_KINDS), "cnn-edgekern-frozen", "cnn-edgekern-frozen-uint8")
PROFILED = ("cnn-edgekern-nhwc", "cnn-edgekern-static-nhwc")
ONNX = ("onnxruntime-fp32", "onnxruntime-int8-static", "openvino-fp32", "openvino-int8-static")
RIVALS = ("torch-fp32", "torch-compile", *ONNX)
LIMITS = ("peak-int8",)
QUICK_CELLS = ("efficientnet-lite0-b1", "resnet18-b1")
LAYER_CELLS = ("*-b1",)
PEAK_SECONDS = 0.3  # of measuring the peak for --layers
FOLDER = BENCHMARKS.parent / "build/benchmarks"


def all_cells() -> list[dict[str, Any]]:
    """Every network at every batch size."""
    return [
        {"name": f"{network}-b{batch}", "network": network, "batch": batch} for network in NETWORKS for batch in BATCHES
    ]


def make_files(folder: Path, networks: list[str], graphs: bool) -> None:
    """Makes what the subjects read, ONNX graphs among it if asked; what is there already stays."""
    from rivals.cnn_files import make_folder, make_graphs  # after the options have been looked at: it imports much

    for network in networks:
        make_folder(folder / network, network)
        if graphs:
            try:
                make_graphs(folder / network, network)
            except ImportError as error:  # the others are measured all the same, and these are listed as absent
                typer.echo(f"no ONNX graphs: {error}", err=True)


def show_layers(tasks: list[dict[str, Any]], threads: int, environment: dict[str, str]) -> None:
    """Prints the time of each layer, and its share of the int8 peak."""
    from rendering.charts import label  # after the options have been looked at: it imports matplotlib
    from rendering.cnn import layer_table
    from rendering.pages import plural
    from rendering.results import short_name

    for subject in PROFILED:
        with Worker(LIMITS[0], threads, environment) as limit, Worker(subject, threads, environment) as ours:
            for task in tasks:
                work = limit.prepare(task)["work"]
                peak = work / min(limit.sample(PEAK_SECONDS))
                facts = ours.prepare(task)
                typer.echo(f"\n{label(short_name(subject))}: {task['name']}, {plural(threads)}\n")
                typer.echo(layer_table(facts["layers"], ours.profile(), peak))


def main(
    cells: Cells = None,
    rivals: Rivals = None,
    threads: Threads = None,
    rounds: Rounds = 9,
    seconds: Seconds = 0.25,
    quick: Annotated[bool, typer.Option("--quick", help="Two networks, one image, three short rounds.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Only print the time of each of edgekern's layers.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the networks' files are made and kept.")] = FOLDER,
    isa: Isa = None,
    tier: Tier = None,
    output: Output = None,
) -> None:
    folder = folder.absolute()
    chosen = [] if layers else choose_rivals(rivals, RIVALS)
    tasks = choose_cells(all_cells(), cells or (LAYER_CELLS if layers else QUICK_CELLS if quick else ["*"]))
    environment = {
        FOLDER_VARIABLE: str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # in its own process, which is stopped while others are measured
        **caps(tier, isa),
    }
    make_files(folder, list(dict.fromkeys(task["network"] for task in tasks)), bool(set(ONNX) & set(chosen)))
    if layers:
        for count in threads or [1, 2]:
            show_layers(tasks, count, environment)
        return
    plan = Plan(
        subjects=[*OURS, *(f"cnn-{name}" for name in chosen)],
        limits=LIMITS,
        threads=threads or [1, 2],
        tasks=tasks,
        rounds=min(rounds, 3) if quick else rounds,
        seconds=min(seconds, 0.1) if quick else seconds,
        environment=environment,
        required=[OURS[0], *LIMITS],
        profiled=PROFILED,
    )
    run("cnn", plan, tier, isa, output)


if __name__ == "__main__":
    typer.run(main)
