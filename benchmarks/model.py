"""Time a real model, the MiniLM sentence encoder at 128 tokens: edgekern, its rivals, and the floor under them all.

Usage:

    python benchmarks/model.py
    python benchmarks/model.py --batch 1 --rivals torch-fp32 --threads 2
"""

from __future__ import annotations

from typing import Annotated

import typer
from harness.command import Isa, Output, Rivals, Rounds, Seconds, Threads, Tier, caps, choose_rivals, run
from harness.table import Plan

SEQUENCE = 128
OURS = ("edgekern", "stub")  # the stub has every linear layer instant: no linear kernel can do better
RIVALS = ("torch-fp32", "torch-int8-x86", "onnxruntime-int8", "openvino-fp32")
PROFILED = ("edgekern", "torch-fp32", "torch-int8-x86", "stub")


def main(
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Batch sizes; repeatable. Default: 1 and 32.")] = None,
    rivals: Rivals = None,
    threads: Threads = None,
    rounds: Rounds = 9,
    seconds: Seconds = 0.25,
    isa: Isa = None,
    tier: Tier = None,
    output: Output = None,
) -> None:
    plan = Plan(
        subjects=[f"minilm-{name}" for name in (*OURS, *choose_rivals(rivals, RIVALS))],
        limits=(),
        threads=threads or [1, 2],
        tasks=[{"name": f"batch {size}", "batch": size, "sequence": SEQUENCE} for size in batch or (1, 32)],
        rounds=rounds,
        seconds=seconds,
        environment={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **caps(tier, isa)},
        required=[f"minilm-{name}" for name in OURS],
        profiled=[f"minilm-{name}" for name in PROFILED],
    )
    run("model", plan, tier, isa, output)


if __name__ == "__main__":
    typer.run(main)
