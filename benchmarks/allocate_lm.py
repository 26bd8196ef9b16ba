"""What a language model loses when each layer has its own number of bits: SmolLM2-135M within budgets of bits a weight.

    python benchmarks/allocate_lm.py                      some ten minutes: the scan, and every row
    python benchmarks/allocate_lm.py --scan scan.json     keeps the scan, or takes one that was kept
    python benchmarks/allocate_lm.py --only "4.5 bpw"     one row; the others stay as they were measured

The layers are scanned once, each with the divergence of one scheme measured and of the others estimated. Then each row
is converted, measured, and written into benchmarks/results/allocate-smollm2.json; `python scripts/render_bits.py`
renders docs/allocate.md. A busy machine does no harm but to the seconds. Needs pip install 'edgekern[lm]', and what
examples/prune_smollm2.py names.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import edgekern as ek
from edgekern.config import Config
from edgekern.evaluate import load_smollm2, perplexity, wikipedia_prose, windows
from edgekern.machine import describe_machine

RESULT = Path(__file__).resolve().parent / "results/allocate-smollm2.json"
WINDOWS, TOKENS = 4, 512
CALIBRATION = (2, 32)  # windows, tokens of each

SCHEMES = [ek.Int4(128), ek.Int4(64), ek.Int4(32), ek.Int8()]
BITS = (4.5, 4.85, 6)


def calibration(ids: Tensor) -> list[dict[str, object]]:
    """Batches out of the last third of the text, spread over it: perplexity is measured on the first pages."""
    count, tokens = CALIBRATION
    found = windows(ids[-(len(ids) // 3) :], tokens)
    return [{"input_ids": window[None], "use_cache": False} for window in found[:: len(found) // count][:count]]


def scanned(model: nn.Module, data: list[dict[str, object]], file: Path | None) -> tuple[ek.Sensitivity, float]:
    """The scan, from ``file`` where that exists, and the seconds that it took."""
    if file is not None and file.exists():
        kept = json.loads(file.read_text())
        return ek.Sensitivity.from_dict(kept["scan"]), kept["seconds"]
    start = time.perf_counter()
    scan = ek.sensitivity(model, "kl", data, SCHEMES, estimate=True, latency=False)
    seconds = time.perf_counter() - start
    if file is not None:
        file.write_text(json.dumps({"scan": scan.to_dict(), "seconds": seconds}))
    return scan, seconds


def measured(dense: nn.Module, config: Config, scan: ek.Sensitivity, text: Tensor) -> dict[str, Any]:
    """What converting by ``config`` comes to."""
    model = copy.deepcopy(dense)
    report = ek.convert_(model, config)
    weights = {row.name: row.weights for row in scan}
    sizes = {row.name: row.bytes_after for row in report.rows if row.name in weights}
    schemes = config.rules.values() if isinstance(config, ek.PerLayer) else [config] * len(weights)
    return {
        "bits": 8 * sum(sizes.values()) / sum(weights.values()),
        "megabytes": sum(sizes.values()) / 1e6,
        "layers": dict(Counter(repr(scheme) for scheme in schemes).most_common()),
        "perplexity": perplexity(model, text),
    }


def predicted(config: Config, scan: ek.Sensitivity) -> float:
    """The summed losses of the layers one by one."""
    rules = config.rules if isinstance(config, ek.PerLayer) else dict.fromkeys(scan.curves(), config)
    return sum(row.loss for row in scan if rules[row.name] == row.scheme)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", type=Path, help="file to keep the scan in, or to take it from")
    parser.add_argument("--only", nargs="*", help="rows to measure, as '4.5 bpw' or 'Int8()'; all otherwise")
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    machine = describe_machine()
    lm = load_smollm2()
    ids = lm.ids(wikipedia_prose())
    text = windows(ids, TOKENS, WINDOWS)
    scan, seconds = scanned(lm.model, calibration(ids), options.scan)
    result = {
        "kind": "allocate-lm",
        "model": "SmolLM2-135M-Instruct",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine,
        "text": [WINDOWS, TOKENS],
        "calibration": list(CALIBRATION),
        "scan": {"metric": scan.metric, "layers": len(scan.curves()), "rows": len(scan), "seconds": round(seconds)},
        "rows": [],
    }
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    kept = {row["name"]: row for row in before.get("rows", [])} if before.get("text") == result["text"] else {}
    result["float32"] = before["float32"] if kept else perplexity(lm.model, text)
    cases: list[tuple[str, Config]] = [(repr(scheme), scheme) for scheme in SCHEMES]
    cases += [(f"{bits} bpw", ek.allocate(scan, f"{bits} bpw")) for bits in BITS]
    for name, config in cases:
        if options.only is None or name in options.only:
            kept[name] = {"name": name, **measured(lm.model, config, scan, text)}
            print(json.dumps(kept[name]), flush=True)
        if name in kept:
            result["rows"].append({**kept[name], "predicted": predicted(config, scan)})
        RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
