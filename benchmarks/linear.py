"""Time one linear layer, float32 in and float32 out: edgekern, its rivals, and the machine's own limits.

Weights are int8, or int4 by groups of 128.

Usage:

    python benchmarks/linear.py                        the whole table
    python benchmarks/linear.py --quick                a taste, in about a minute
    python benchmarks/linear.py --cells '128x*' --rivals torch-fp32 --threads 2
    python benchmarks/linear.py --weights int4
    python benchmarks/linear.py --rivals edgekern-float --rivals torch-fp32 -o floats.jsonl
"""

from __future__ import annotations

from enum import Enum
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
from harness.table import Plan


class Weights(str, Enum):
    """What a layer's weights are rounded to."""

    INT8 = "int8"
    INT4 = "int4"


# int4 is compared with our int8 too.
OURS = {Weights.INT8: ("edgekern",), Weights.INT4: ("edgekern-int4", "edgekern")}
RIVALS = {
    Weights.INT8: (
        "torch-fp32",
        "torch-bf16",
        "torch-int8-x86",
        "torch-int8-onednn",
        "onnxruntime-int8",
        "openvino-int8",
    ),
    Weights.INT4: ("onnxruntime-int4", "openvino-int4"),
}
# Our layers whose activations stay floats, and what they are compared with: in no table.
ON_REQUEST = {Weights.INT8: ("edgekern-float",), Weights.INT4: ("edgekern-int4-float", "torch-fp32", "torch-bf16")}
BENCHMARK = {Weights.INT8: "linear", Weights.INT4: "int4"}  # which results are rendered as
LIMITS = ("peak-int8", "read-bandwidth")

# (K, N) of real layers: MiniLM's and BERT's feed-forward pairs, SmolLM2's, and two of LLM size.
LAYERS = ((384, 1536), (1536, 384), (576, 1536), (768, 3072), (2048, 8192), (4096, 4096))
ROWS = (1, 4, 16, 64, 128, 512)
SMALLEST = {"name": "1x64x64", "m": 1, "k": 64, "n": 64, "cold": False}  # nothing but the cost of a call
QUICK_CELLS = ("1x768x3072", "1x768x3072-cold", "16x384x1536", "128x768x3072")


def all_cells() -> list[dict[str, Any]]:
    """Every (M, K, N), and M = 1 with cold weights too. Cells of one layer stay together: it is built once."""
    cells: list[dict[str, Any]] = [SMALLEST]
    for k, n in LAYERS:
        for m in ROWS:
            cells.append({"name": f"{m}x{k}x{n}", "m": m, "k": k, "n": n, "cold": False})
        cells.append({"name": f"1x{k}x{n}-cold", "m": 1, "k": k, "n": n, "cold": True})
    return cells


def main(
    cells: Cells = None,
    rivals: Rivals = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    seconds: Seconds = 0.06,
    quick: Annotated[bool, typer.Option("--quick", help="Four cells and three short rounds.")] = False,
    ours: Annotated[bool, typer.Option(help="--no-ours leaves edgekern and the machine's limits out.")] = True,
    weights: Annotated[
        Weights, typer.Option(help="What they are rounded to; each has rivals of its own.")
    ] = Weights.INT8,
    isa: Isa = None,
    tier: Tier = None,
    output: Output = None,
) -> None:
    chosen = choose_rivals(rivals, RIVALS[weights], ON_REQUEST[weights])
    if quick:
        rounds, seconds = min(rounds, 3), min(seconds, 0.03)
    plan = Plan(
        subjects=[*OURS[weights], *chosen] if ours else chosen,
        limits=LIMITS if ours else (),
        threads=threads or [1, 2],
        tasks=choose_cells(all_cells(), cells or (QUICK_CELLS if quick else ["*"])),
        rounds=rounds,
        seconds=seconds,
        environment=caps(tier, isa),
        required=[*OURS[weights], *LIMITS],
    )
    run(BENCHMARK[weights], plan, tier, isa, output)


if __name__ == "__main__":
    typer.run(main)
