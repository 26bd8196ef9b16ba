"""What a language model loses by fewer bits, rounded to nearest and by GPTQ: SmolLM2-135M in int8 and symmetric int4.

    python benchmarks/quantize_lm.py                            an hour or less: every case
    python benchmarks/quantize_lm.py --only "int4, groups of 64"      of one format
    python benchmarks/quantize_lm.py --only "int4, groups of 64 GPTQ"     one alone

Each case is written into benchmarks/results/quantize-smollm2.json when it is done; `python scripts/render_quantize.py`
renders docs/quantization.md. A busy machine does no harm but to the seconds. Needs what examples/prune_smollm2.py does,
whose calibration data these are.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "examples"))

import prune_smollm2 as example  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.evaluate import load_smollm2, perplexity, wikipedia_prose, windows  # noqa: E402
from edgekern.report.machine import describe_machine  # noqa: E402

RESULT = ROOT / "benchmarks/results/quantize-smollm2.json"
WINDOWS, TOKENS = 12, 512


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    format: str
    scheme: ek.Int8 | ek.Int4 | ek.GPTQ | None
    """None for the floats."""
    dense: bool = False
    """Whether it runs with the rounded weights as floats: what rounding the activations costs is the difference."""

    @property
    def method(self) -> str:
        """How weights are rounded."""
        if self.scheme is None:
            return ""
        if not isinstance(self.scheme, ek.GPTQ):
            return "nearest, float activations" if self.dense else "nearest"
        clipped = isinstance(self.scheme.to, ek.Int4) and self.scheme.to.clip == "mse"
        return "GPTQ" + ", clipped" * clipped + ", columns in order" * (not self.scheme.act_order)


def int4(group_size: int, clip: str = "none") -> ek.Int4:
    """Symmetric, and in the form that all others compute the same as: nothing is timed here."""
    return ek.Int4(group_size, symmetric=True, form="dense", clip=clip)


CASES = [Case("float32", None), Case("int8", ek.Int8("dense"), dense=True), Case("int8", ek.Int8("dense"))]
CASES.append(Case("int8", ek.GPTQ(ek.Int8("dense"))))
for size in (32, 64, 128):
    name = f"int4, groups of {size}"
    CASES += [Case(name, int4(size)), Case(name, ek.GPTQ(int4(size))), Case(name, ek.GPTQ(int4(size, "mse")))]
    if size == 64:
        CASES.append(Case(name, ek.GPTQ(int4(size), act_order=False)))


def converted(case: Case, dense: nn.Module, data: list[dict[str, object]]) -> tuple[nn.Module, dict[str, Any]]:
    """The model as the case has it, and what there is to say about how it came to be."""
    if case.scheme is None:
        return dense, {}
    model = copy.deepcopy(dense)
    if not isinstance(case.scheme, ek.GPTQ):
        ek.convert_(model, case.scheme)
        if case.dense:
            ek.dense_(model)
        return model, {}
    start, cpu = time.perf_counter(), time.process_time()
    report = ek.quantize_(model, case.scheme, data)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    ek.convert_(model, report.config)
    return model, {
        "layers": len(report.quantized),
        "error_ratio": round(statistics.median(row.error / row.nearest for row in report.quantized), 3),
        "seconds": round(seconds),
        "cpu_seconds": round(cpu_seconds),
    }


def keep(case: Case, machine: dict[str, Any], facts: dict[str, Any]) -> None:
    """Adds the row of a case to the results."""
    print(case.format, case.method, json.dumps(facts), flush=True)
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": []}
    rows = {(row["format"], row["method"]): row for row in result["rows"]}
    rows[case.format, case.method] = {
        "format": case.format,
        "method": case.method,
        "config": case.scheme and case.scheme.to_dict(),
        "load": machine["load"],
        **facts,
    }
    result = {
        "kind": "quantize-lm",
        "model": "SmolLM2-135M-Instruct",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine,
        "text": [WINDOWS, TOKENS],
        "calibration": list(example.CALIBRATION),
        "rows": [rows[c.format, c.method] for c in CASES if (c.format, c.method) in rows],
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="the cases to measure: a format, or a format and a method")
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    lm = load_smollm2()
    ids = lm.ids(wikipedia_prose())
    text, data = windows(ids, TOKENS, WINDOWS), example.calibration(ids)
    for case in CASES:
        if options.only in ("", case.format, f"{case.format} {case.method}"):
            machine = describe_machine()
            model, facts = converted(case, lm.model, data)
            keep(case, machine, {"perplexity": perplexity(model, text), **facts})


if __name__ == "__main__":
    main()
