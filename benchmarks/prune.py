"""What pruning costs MiniLM in quality, without any training after it: every method beside every other.

    python benchmarks/prune.py      several minutes; writes benchmarks/results/prune-minilm.json

Then `python scripts/render_prune.py` renders docs/pruning.md. Only quality is measured, so a busy machine does no harm.
"""

from __future__ import annotations

import copy
import json
from datetime import datetime, timezone
from pathlib import Path

import edgekern as ek
from edgekern.evaluate import Encoder, load_lee50, load_minilm, load_wordsim353, news_texts
from edgekern.machine import describe_machine

RESULT = Path(__file__).parent / "results/prune-minilm.json"
TEXTS, BATCH, TOKENS = 32, 8, 128
CASES = [
    *(ek.Prune(0.5, method=method) for method in ("random", "magnitude", "wanda", "sparsegpt")),
    ek.Prune(0.5, scope="global"),
    *(ek.Prune(pattern="2:4", method=method) for method in ("magnitude", "wanda", "sparsegpt")),
    *(ek.Prune(0.5, pattern, method) for pattern in ("1x4", "4x4") for method in ("magnitude", "sparsegpt")),
]


def calibration(encoder: Encoder) -> list[dict]:
    """Batches of news texts that are not among those of Lee50."""
    texts = news_texts()[:TEXTS]
    options = {"padding": True, "truncation": True, "max_length": TOKENS, "return_tensors": "pt"}
    return [dict(encoder.tokenizer(texts[i : i + BATCH], **options)) for i in range(0, TEXTS, BATCH)]


def main() -> None:
    machine = describe_machine()
    encoder, tasks = load_minilm(), [load_lee50(), load_wordsim353()]
    batches = calibration(encoder)

    def scores(model) -> dict[str, float]:
        return {task.name: task.score(Encoder(model, encoder.tokenizer).encode) for task in tasks}

    rows = []
    for config in CASES:
        model = copy.deepcopy(encoder.model)
        report = ek.prune_(model, config, batches)
        rows.append({"config": config.to_dict(), "sparsity": report.sparsity, "scores": scores(model)})
        print(config.pattern, config.method, config.scope, rows[-1]["scores"], flush=True)
    result = {
        "kind": "prune",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine,
        "model": "MiniLM-L6",
        "layers": len(report.pruned),
        "calibration": {"texts": TEXTS, "tokens": TOKENS},
        "dense": scores(encoder.model),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
