"""Time one pruned linear layer, float32 in and float32 out: edgekern's forms of it, and its rivals at the same mask.

Usage:

    python benchmarks/sparse.py                        the whole table
    python benchmarks/sparse.py --quick                a taste, in two minutes
    python benchmarks/sparse.py --cells '128x*-4x4-80' --rivals deepsparse-int8 --threads 2
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
from harness.process import BENCHMARKS
from harness.subject import FLOAT_CHANNELS, FORMS, INT4_FORMS
from harness.table import Plan

OURS = tuple(f"edgekern-{form}" for form in FORMS)
OURS_INT4 = tuple(f"edgekern-int4-{form}" for form in INT4_FORMS)
OURS_FLOAT = tuple(f"edgekern-{dtype}-{channels}" for dtype in ("f32", "f16") for channels in FLOAT_CHANNELS)
DEEPSPARSE = ("deepsparse-fp32", "deepsparse-int8", "deepsparse-int8-fast")
DEEPSPARSE_PYTHON = BENCHMARKS.parent / ".venv-deepsparse/bin/python"
RIVALS = ("torch-fp32", "onnxruntime-int8", "torch-csr", "torch-qnnpack-1x4", *DEEPSPARSE)

LAYERS = ((768, 3072), (2048, 8192), (576, 1536))  # (K, N): BERT's, an LLM's and SmolLM2's feed-forward layers
ROWS = (1, 16, 64, 128, 512)
MASKS = (
    *(("4x4", share) for share in (0.8, 0.9)),
    *(("1x4", share) for share in (0.8, 0.9)),
    *(("unstructured", share) for share in (0.5, 0.7, 0.8, 0.9)),
    ("2:4", 0.5),
)
# The forms that can be the fastest at a mask. A form of other blocks takes it as the union of its own.
FORMS_OF = {
    "4x4": ("dense", "blocks_1", "blocks_2", "blocks_4", "blocks_8", "bitmap_4"),
    "1x4": ("dense", "blocks_1", "blocks_2", "csr", "bitmap_4"),
    "unstructured": ("dense", "blocks_1", "csr", "bitmap"),
    "2:4": ("dense", "blocks_1", "csr", "bitmap"),
}
QUICK_CELLS = ("128x768x3072-*-80", "1x2048x8192-unstructured-80*")


def all_cells() -> list[dict[str, Any]]:
    """Every layer, mask and M, and M = 1 with cold weights too. Cells of one mask stay together: it is built once."""
    cells = []
    for k, n in LAYERS:
        for pattern, sparsity in MASKS:
            for m, cold in [*((m, False) for m in ROWS), (1, True)]:
                name = f"{m}x{k}x{n}-{pattern}-{100 * sparsity:.0f}" + "-cold" * cold
                shape = {"m": m, "k": k, "n": n, "cold": cold}
                cells.append({"name": name, **shape, "pattern": pattern, "sparsity": sparsity})
    return cells


def takes_part(subject: str, cell: dict[str, Any]) -> bool:
    """Whether `subject` is measured in `cell`: ours cold too, as the goal there is to beat our own dense layer.

    int4 takes part there alone, being for weights that come from memory.
    """
    if subject in OURS:
        return subject.removeprefix("edgekern-") in FORMS_OF[cell["pattern"]]
    if subject in OURS_INT4:
        return cell["cold"] and "bitmap" in FORMS_OF[cell["pattern"]]
    if subject in ("edgekern-f32-4", "edgekern-f16-4") and cell["pattern"] != "4x4":
        return False
    if subject == "torch-qnnpack-1x4" and cell["pattern"] not in ("1x4", "4x4"):
        return False
    return not cell["cold"]


def main(
    cells: Cells = None,
    rivals: Rivals = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    seconds: Seconds = 0.06,
    quick: Annotated[bool, typer.Option("--quick", help="Five cells and three short rounds.")] = False,
    ours: Annotated[bool, typer.Option(help="--no-ours leaves edgekern out.")] = True,
    deepsparse_python: Annotated[Path, typer.Option(help="The Python that has DeepSparse.")] = DEEPSPARSE_PYTHON,
    isa: Isa = None,
    tier: Tier = None,
    output: Output = None,
) -> None:
    chosen = choose_rivals(rivals, RIVALS)
    if quick:
        rounds, seconds = min(rounds, 3), min(seconds, 0.03)
    plan = Plan(
        subjects=[*OURS, *OURS_INT4, *OURS_FLOAT, *chosen] if ours else chosen,
        limits=(),
        threads=threads or [1, 2],
        tasks=choose_cells(all_cells(), cells or (QUICK_CELLS if quick else ["*"])),
        rounds=rounds,
        seconds=seconds,
        environment={"NM_DISABLE_ANALYTICS": "1", **caps(tier, isa)},
        required=["edgekern-dense"] if ours else (),
        pythons=dict.fromkeys(DEEPSPARSE, str(deepsparse_python)),
        takes_part=takes_part,
    )
    run("sparse", plan, tier, isa, output)


if __name__ == "__main__":
    typer.run(main)
