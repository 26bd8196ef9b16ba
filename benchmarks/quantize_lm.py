"""What a language model loses by fewer bits, rounded to nearest and with data: SmolLM2-135M in int8 and symmetric int4.

    python benchmarks/quantize_lm.py                            an hour or so: every case
    python benchmarks/quantize_lm.py --only "int4, groups of 64"      of one format
    python benchmarks/quantize_lm.py --only "int4, groups of 64 GPTQ"     one alone

Each case is written into benchmarks/results/quantize-smollm2.json when it is done; `python scripts/render_quantize.py`
renders docs/quantization.md. A busy machine does no harm but to the seconds. Needs what examples/prune_smollm2.py does.
"""

from __future__ import annotations

import argparse

import torch
from quantize_cases import FEW, RESULTS, Case, chosen, converted, int4, int8, keep
from torch import Tensor

import edgekern as ek
from edgekern.evaluate import load_smollm2, perplexity, wikipedia_prose, windows
from edgekern.machine import describe_machine

WINDOWS, TOKENS = 12, 512
MANY = 24

CASES = [Case("float32", None), Case("int8", int8(), dense=True), Case("int8", int8())]
CASES += [Case("int8", ek.GPTQ(int8())), Case("int8", ek.AWQ(int8())), Case("int8", ek.SmoothQuant(int8()))]
for size in (32, 64, 128):
    name = f"int4, groups of {size}"
    CASES += [Case(name, int4(size)), Case(name, int4(size, "hqq")), Case(name, ek.GPTQ(int4(size)))]
    CASES += [Case(name, ek.GPTQ(int4(size, "mse"))), Case(name, ek.GPTQ(int4(size, "mse")), windows=MANY)]
    CASES += [Case(name, ek.AWQ(int4(size))), Case(name, ek.AWQ(ek.GPTQ(int4(size, "mse"))))]
    CASES += [Case(name, ek.AWQ(ek.GPTQ(int4(size, "mse"))), windows=MANY)]
    if size == 64:
        CASES.append(Case(name, ek.GPTQ(int4(size), act_order=False)))


def calibration(ids: Tensor, count: int) -> list[dict[str, object]]:
    """Batches out of the last third of the text, spread over it: perplexity is measured on the first pages."""
    found = windows(ids[-(len(ids) // 3) :], TOKENS)
    # One row of logits is enough, and the cache of keys and values is of no use: nothing is written here.
    options = {"use_cache": False, "logits_to_keep": 1}
    return [{"input_ids": window[None], **options} for window in found[:: max(1, len(found) // count)][:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="the cases to measure: a format, or a format and a method")
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    lm = load_smollm2()
    ids = lm.ids(wikipedia_prose())
    text = windows(ids, TOKENS, WINDOWS)
    about = {"kind": "quantize-lm", "model": "SmolLM2-135M-Instruct", "text": [WINDOWS, TOKENS]}
    about["calibration"] = [FEW, TOKENS]
    for case in chosen(CASES, options.only):
        machine = describe_machine()
        model, facts = converted(case, lm.model, calibration(ids, case.windows))
        row = {"perplexity": perplexity(model, text), **facts}
        keep(RESULTS / "quantize-smollm2.json", CASES, case, machine, about, row)


if __name__ == "__main__":
    main()
