"""What a language model loses by being pruned, and what it gains in speed: SmolLM2-135M at 50 % zeros.

    python benchmarks/prune_lm.py prune               half an hour; keeps the models in build/pruned/smollm2
    python benchmarks/prune_lm.py score               half an hour: perplexity of them
    python benchmarks/prune_lm.py score --pattern 2:4 --method wanda     of one; "--pattern dense": the model as it was
    python benchmarks/prune_lm.py speed --threads 1   a minute: tokens a second of them, all in turns
    python benchmarks/prune_lm.py speed --threads 2

Each writes its part of benchmarks/results/prune-smollm2.json; `python scripts/render_prune.py` renders docs/pruning.md.
A busy machine does no harm to the first two. Needs what examples/prune_smollm2.py does, whose settings these are.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "examples"))

import prune_smollm2 as example  # noqa: E402

from edgekern.bench import decode_in_turns  # noqa: E402
from edgekern.evaluate import LanguageModel, load_smollm2, perplexity, wikipedia_prose, windows  # noqa: E402
from edgekern.machine import describe_machine  # noqa: E402
from edgekern.nn import Int8Linear  # noqa: E402

RESULT = ROOT / "benchmarks/results/prune-smollm2.json"
MODELS = ROOT / "build/pruned/smollm2"
WINDOWS = 20
DENSE, PATTERNS, METHODS = "dense", ("unstructured", "2:4"), ("magnitude", "wanda", "sparsegpt")
CASES = [(DENSE, ""), *((pattern, method) for pattern in PATTERNS for method in METHODS)]
TIMED = "magnitude"  # the others leave as many weights, and run alike
PROMPT_TOKENS, TOKENS, ROUNDS = 64, 32, 9


def file_of(pattern: str, method: str) -> Path:
    """Where the weights of a pruned model are kept."""
    return MODELS / f"{pattern.replace(':', '-')}-{method}.pt"


def measure_pruning(cases: list[tuple[str, str]]) -> None:
    """Prunes a copy for each case and keeps its weights."""
    lm = load_smollm2()
    data = example.calibration(lm.ids(wikipedia_prose()))
    MODELS.mkdir(parents=True, exist_ok=True)
    for pattern, method in cases:
        machine, start = describe_machine(), time.perf_counter()
        model = lm.model if pattern == DENSE else example.prune(lm.model, pattern, method, data)
        facts = {"seconds": round(time.perf_counter() - start, 1), "load": machine["load"]}
        torch.save(model.state_dict(), file_of(pattern, method))
        keep_quality(machine, pattern, method, facts)


def measure_perplexity(cases: list[tuple[str, str]], dtypes: list[str]) -> None:
    """Perplexity of each of those, in floats and in int8; and what it writes in int8."""
    lm = load_smollm2()
    text = windows(lm.ids(wikipedia_prose()), example.TOKENS, WINDOWS)
    for pattern, method in cases:
        machine = describe_machine()
        lm.model.load_state_dict(torch.load(file_of(pattern, method)))
        keep_quality(machine, pattern, method, {"zeros": share_of_zeros(lm.model)})
        if "int8" in dtypes:
            model = example.int8(lm.model, "dense")  # any form computes the same
            answer = LanguageModel(model, lm.tokenizer).generate(example.PROMPT)
            keep_quality(machine, pattern, method, {"int8": perplexity(model, text), "answer": answer})
        if "float32" in dtypes:
            keep_quality(machine, pattern, method, {"float32": perplexity(lm.model, text)})


def keep_quality(machine: dict[str, Any], pattern: str, method: str, facts: dict[str, Any]) -> None:
    """Adds facts to the row of a case."""
    print(pattern, method, json.dumps(facts), flush=True)
    result = read()
    rows = {(row["pattern"], row["method"]): row for row in result.get("quality", {}).get("rows", [])}
    rows[pattern, method] = {"pattern": pattern, "method": method, **rows.get((pattern, method), {}), **facts}
    about = {"text": [WINDOWS, example.TOKENS], "calibration": list(example.CALIBRATION), "prompt": example.PROMPT}
    result["quality"] = {"machine": machine, **about, "rows": [rows[case] for case in CASES if case in rows]}
    write(result)


def share_of_zeros(model: nn.Module) -> float:
    """Of the weights in the linear layers of the decoder, those that are zero."""
    weights = [m.weight for name, m in model.named_modules() if isinstance(m, nn.Linear) and name != "lm_head"]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def measure_speed(threads: int) -> None:
    """Tokens a second of every form, all models in one process."""
    machine = describe_machine()
    lm = load_smollm2()
    models = {
        "float32": lm.model,
        "int8, head float32": example.int8(lm.model, head=False),
        "int8": example.int8(lm.model),
    }
    for pattern in PATTERNS:
        pruned = load_smollm2().model
        pruned.load_state_dict(torch.load(file_of(pattern, TIMED)))
        models[f"{pattern}, bitmap"] = example.int8(pruned, "bitmap")
        models[f"{pattern}, measured"] = example.int8(pruned)
    prompt = lm.ids(wikipedia_prose()[: 10 * PROMPT_TOKENS])[None, :PROMPT_TOKENS]
    speeds = decode_in_turns(models, prompt, TOKENS, ROUNDS)
    about = {"prompt": PROMPT_TOKENS, "tokens": TOKENS, "rounds": ROUNDS, "pruned_by": TIMED}
    rows = [
        {"name": name, "tokens_per_second": speeds[name], "bytes": example.linear_bytes(model), "forms": forms(model)}
        for name, model in models.items()
    ]
    result = read()
    result.setdefault("speed", {})[str(threads)] = {"machine": machine, **about, "rows": rows}
    for row in rows:
        print(json.dumps(row), flush=True)
    write(result)


def forms(model: nn.Module) -> dict[str, int]:
    """How many layers have which form."""
    native = [layer for layer in model.modules() if isinstance(layer, Int8Linear)]
    return dict(Counter(layer.choice.describe().partition(" (")[0] for layer in native))


def read() -> dict[str, Any]:
    """What has been measured so far."""
    return json.loads(RESULT.read_text()) if RESULT.exists() else {"kind": "prune-lm", "model": "SmolLM2-135M-Instruct"}


def write(result: dict[str, Any]) -> None:
    """Keeps what there is now."""
    result["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["prune", "score", "speed"])
    parser.add_argument("--pattern", choices=[DENSE, *PATTERNS], help="prune and score this one alone")
    parser.add_argument("--method", choices=METHODS, help="prune and score this one alone")
    parser.add_argument("--dtypes", nargs="+", default=["int8", "float32"], help="score in these")
    parser.add_argument("--threads", type=int, help="torch's threads; 1 on a busy machine is fastest")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())  # before converting: forms are chosen for it
    chosen = [case for case in CASES if options.pattern in (None, case[0]) and options.method in (None, case[1])]
    if options.part == "prune":
        measure_pruning(chosen)
    elif options.part == "score":
        measure_perplexity(chosen, options.dtypes)
    else:
        measure_speed(torch.get_num_threads())


if __name__ == "__main__":
    main()
