"""Time a small language model, SmolLM2-135M, reading and writing: edgekern, torch, and llama.cpp, in one run.

Usage:

    python benchmarks/language_model.py                        pp512 and tg64 on 1 and 2 threads, about ten minutes
    python benchmarks/language_model.py --quick                short ones, a minute or two
    python benchmarks/language_model.py --rivals llama-q8_0 --cells tg64 --threads 1

pp512: a prompt of 512 tokens is read in one call. tg64: 64 tokens are written one by one, from an empty context on.
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
from harness.subject import LM_KINDS
from harness.table import Plan
from rivals.lm_task import FOLDER_VARIABLE

# The stub has every linear layer instant: no linear kernel can do better in transformers.
OURS = (*(f"lm-edgekern-{kind}" for kind in LM_KINDS), "lm-stub")
LLAMA = ("llama-q8_0", "llama-q4_0")
RIVALS = ("lm-torch-fp32", "lm-torch-bf16", "lm-torch-int8-x86", *LLAMA)
LLAMA_PYTHON = BENCHMARKS.parent / ".venv-llama/bin/python"
FOLDER = BENCHMARKS.parent / "build/benchmarks/smollm2"
LENGTHS = {"read": ("pp", 512), "write": ("tg", 64)}
QUICK = {"read": ("pp", 64), "write": ("tg", 8)}


def all_cells(lengths: dict[str, tuple[str, int]]) -> list[dict[str, Any]]:
    """What every subject is asked to do."""
    return [{"name": f"{short}{tokens}", "does": does, "tokens": tokens} for does, (short, tokens) in lengths.items()]


def main(
    cells: Cells = None,
    rivals: Rivals = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    seconds: Seconds = 0.25,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer tokens, and three rounds.")] = False,
    llama_python: Annotated[Path, typer.Option(help="The Python that has llama.cpp.")] = LLAMA_PYTHON,
    folder: Annotated[Path, typer.Option(help="Where the model's files are made and kept.")] = FOLDER,
    isa: Isa = None,
    tier: Tier = None,
    output: Output = None,
) -> None:
    folder, llama_python = folder.absolute(), llama_python.absolute()  # not resolved: it is a link out of its own venv
    chosen = choose_rivals(rivals, RIVALS)
    tasks = choose_cells(all_cells(QUICK if quick else LENGTHS), cells or ["*"])
    from rivals.lm_files import make_folder, make_gguf  # after the options have been looked at: it imports much

    make_folder(folder)
    if set(LLAMA) & set(chosen):
        try:
            make_gguf(folder, llama_python)
        except RuntimeError as error:  # the others are measured all the same, and these are listed as absent
            typer.echo(str(error), err=True)
    plan = Plan(
        subjects=[*OURS, *chosen],
        limits=(),
        threads=threads or [1, 2],
        tasks=tasks,
        rounds=min(rounds, 3) if quick else rounds,
        seconds=seconds,
        environment={FOLDER_VARIABLE: str(folder), "HF_HUB_OFFLINE": "1", **caps(tier, isa)},
        required=OURS[:1],
        pythons=dict.fromkeys(LLAMA, str(llama_python)),
    )
    run("lm", plan, tier, isa, output)


if __name__ == "__main__":
    typer.run(main)
