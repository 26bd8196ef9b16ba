"""What an encoder gains in speed by being pruned, and what it loses: the models that examples/prune_minilm.py saved.

    python examples/prune_minilm.py --pattern 4x4 --save build/pruned/4x4      and likewise 1x4
    python benchmarks/prune_frontier.py      some minutes; writes benchmarks/results/prune-minilm-80.json

Then `python scripts/render_prune.py` renders docs/pruning.md. All models run in one process, in turns, so that other
work on the machine is unfair to none of them; the fastest turn of each linear layer counts.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

import edgekern as ek
from edgekern.evaluate import load_lee50, load_minilm, load_sentiment, load_wordsim353
from edgekern.machine import describe_machine
from edgekern.nn import Int8Linear

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks/results/prune-minilm-80.json"
TEXTS, TOKENS = 32, 128


class Stopwatch:
    """Times one model and each linear layer of its encoder, turn after turn."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.whole = model, []
        self.layers: dict[str, list[float]] = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | Int8Linear) and name.startswith("encoder."):
                self._watch(module, self.layers.setdefault(name, []))

    def _watch(self, module: nn.Module, seconds: list[float]) -> None:
        started = [0.0]

        def before(*_: object) -> None:
            started[0] = time.perf_counter()

        module.register_forward_pre_hook(before)
        module.register_forward_hook(lambda *_: seconds.append(time.perf_counter() - started[0]))

    def turn(self, inputs: dict[str, torch.Tensor]) -> None:
        start = time.perf_counter()
        self.model(**inputs)
        self.whole.append(time.perf_counter() - start)

    def forget(self) -> None:
        """Leaves out what was measured so far, as the first turn is not yet warm."""
        for times in (self.whole, *self.layers.values()):
            times.clear()

    def times(self) -> dict[str, float]:
        """Milliseconds: the linears' fastest times summed, and the whole model's."""
        linears = sum(min(times) for times in self.layers.values())
        shown = {"linears": linears, "whole": min(self.whole), "whole_median": median(self.whole)}
        return {name: round(1000 * seconds, 2) for name, seconds in shown.items()}


def measure(models: dict[str, Callable[[], nn.Module]], rounds: int, threads: int) -> dict[str, Any]:
    """By model: its times, and how many layers were packed in which form."""
    torch.set_num_threads(threads)
    inputs = load_minilm().random_inputs(TEXTS, TOKENS)
    watches = {name: Stopwatch(make()) for name, make in models.items()}  # made now: forms are chosen for the threads
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for watch in watches.values():
                watch.turn(inputs)
                if turn == 0:
                    watch.forget()
    return {name: {**watch.times(), "forms": forms(watch.model)} for name, watch in watches.items()}


def forms(model: nn.Module) -> dict[str, int]:
    """How many layers have which form."""
    return dict(Counter(module.choice.form for module in model.modules() if isinstance(module, Int8Linear)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT / "build/pruned", help="what the example saved, by pattern")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()

    machine, encoder = describe_machine(), load_minilm()
    encoder_int8 = copy.deepcopy(encoder)
    ek.convert_(encoder_int8.model, ek.Int8(rows=TEXTS * TOKENS))
    tasks = [load_lee50(), load_wordsim353(), load_sentiment()]
    rows: list[dict[str, Any]] = [{"name": "int8", "scores": {t.name: t.score(encoder_int8.encode) for t in tasks}}]
    models: dict[str, Callable[[], nn.Module]] = {
        "float32": lambda: copy.deepcopy(encoder.model),
        "int8": lambda: copy.deepcopy(encoder_int8.model),
    }
    for found in sorted(options.models.glob("*/scores.json")):
        pattern, saved = found.parent.name, json.loads(found.read_text())
        if rows[0]["name"] != "float32":
            rows.insert(0, {"name": "float32", "scores": saved["scores"]["dense"]})
        for level, scores in saved["scores"].items():
            if level != "dense":
                folder = found.parent / level
                size = (folder / "model.safetensors").stat().st_size
                facts = {"pattern": pattern, "sparsity": int(level) / 100, "steps": saved["steps"], "bytes": size}
                rows.append({"name": f"{pattern}-{level}", **facts, "scores": scores})
                models[rows[-1]["name"]] = lambda folder=folder: ek.load(copy.deepcopy(encoder.model), folder)
    for threads in options.threads:
        times = measure(models, options.rounds, threads)
        for row in rows:
            row.setdefault("times", {})[str(threads)] = times[row["name"]]
        print(threads, "threads", json.dumps(times, indent=1), flush=True)
    result = {
        "kind": "prune-frontier",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine,
        "model": "MiniLM-L6",
        "batch": TEXTS,
        "tokens": TOKENS,
        "rounds": options.rounds,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
