"""What dividing SmolLM2-135M within its layers over two processes changes in what it says: logits and perplexity.

    python benchmarks/parallel_tensor.py               20 windows of 1,024 tokens of prose, a few minutes
    python benchmarks/parallel_tensor.py --windows 2   a look

Each process has a core of its own, and runs the whole model first, in each scheme: as it is, in int8 with activations
that stay floats, and in int8. Then both run it divided, adding up floats and adding up int8. Results are printed, and
kept in benchmarks/results/parallel-tensor.json with --save.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from harness.ranks import environments
from torch import Tensor, nn

import edgekern as ek
from edgekern import parallel
from edgekern.evaluate import load_smollm2, perplexity, wikipedia_prose, windows
from edgekern.machine import describe_machine

RESULTS = Path(__file__).resolve().parent / "results/parallel-tensor.json"
RANKS, TOKENS = 2, 1024
SCHEMES = {"float32": None, "int8, float activations": ek.Int8(activations="float"), "int8": ek.Int8()}
SENT = {"floats": False, "int8": True}


def load(scheme: str) -> nn.Module:
    """The model in a scheme."""
    model = load_smollm2().model
    if SCHEMES[scheme] is not None:
        ek.convert_(model, SCHEMES[scheme], progress=False)
    return model


@torch.inference_mode()
def first_logits(model: nn.Module, text: Tensor) -> Tensor:
    """[tokens, words] of the first window."""
    return model(input_ids=text[:1]).logits[0].float()


def rank_main(options: argparse.Namespace) -> None:
    """One rank; the first prints each row."""
    rank = int(os.environ["RANK"])
    os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[rank]])
    torch.set_num_threads(1)
    lm = load_smollm2()
    text = windows(lm.ids(wikipedia_prose()), TOKENS, options.windows)
    # The whole model takes a while in which nothing is sent.
    with parallel.join(silence_seconds=600) as group:
        for scheme in SCHEMES:
            whole = load(scheme)
            exact = first_logits(whole, text)
            row: dict[str, Any] = {"scheme": scheme, "alone": perplexity(whole, text), "divided": {}}
            for sent, compress in SENT.items():
                model = load(scheme)
                parallel.tensor_parallel_(model, group, compress=compress)
                found = first_logits(model, text)
                row["divided"][sent] = {
                    "perplexity": perplexity(model, text),
                    "largest_difference": float((found - exact).abs().max()),
                    "error": float((found - exact).norm() / exact.norm()),
                }
            if rank == 0:
                print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=20, help="of 1,024 tokens; 20")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    if "RANK" in os.environ:
        rank_main(options)
        return
    if len(os.sched_getaffinity(0)) < RANKS:
        raise SystemExit("two cores are needed, one for each process")
    processes = []
    for rank, env in enumerate(environments(RANKS)):
        command = [sys.executable, __file__, "--windows", str(options.windows)]
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE if rank == 0 else None, text=True))
    rows = []
    assert processes[0].stdout is not None
    for line in processes[0].stdout:
        rows.append(json.loads(line))
        print(line, end="", flush=True)
    if any(process.wait() for process in processes):
        raise SystemExit("a rank has failed; its error stands above")
    if options.save:
        found = {"machine": describe_machine(), "windows": options.windows, "tokens": TOKENS, "rows": rows}
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
