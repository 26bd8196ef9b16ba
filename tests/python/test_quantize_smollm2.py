"""The benchmark of quantised language models: its cases on a small model, the page, the committed results."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from small_models import BLOCK_LAYERS, LanguageModel, native_names

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]

import render_quantize  # noqa: E402

RESULT = json.loads((ROOT / "benchmarks/results/quantize-smollm2.json").read_text())
SCORES = {(row["format"], row["method"]): row["perplexity"] for row in RESULT["rows"]}


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")
def test_each_case_converts_a_copy():
    import quantize_lm

    model = LanguageModel()
    data = [{"ids": torch.randint(40, (2, 16))} for _ in range(2)]
    assert len({(case.format, case.method) for case in quantize_lm.CASES}) == len(quantize_lm.CASES) == 14
    for case in quantize_lm.CASES:
        result, facts = quantize_lm.converted(case, model, data)
        assert native_names(result) == ([] if case.scheme is None or case.dense else BLOCK_LAYERS)
        assert native_names(model) == []
        assert ("layers" in facts) == case.method.startswith("GPTQ")
        if facts:
            assert facts["layers"] == 4
            assert 0 < facts["error_ratio"] < 1


def rows(*perplexities):
    names = [("float32", ""), ("int4, groups of 64", "nearest"), ("int4, groups of 64", "GPTQ")]
    found = [
        {"format": form, "method": method, "perplexity": value, "load": 0.2}
        for (form, method), value in zip(names, perplexities, strict=True)
    ]
    return [*found[:2], {**found[2], "error_ratio": 0.256, "cpu_seconds": 99}]


def test_rendering():
    page = render_quantize.table({**RESULT, "rows": rows(10.0, 14.0, 11.0)})
    assert "| int4, groups of 64 | GPTQ | 11.00 | +10.0% | 0.26 | 99 |" in page
    assert "| float32 |  | 10.00 |  |  |  |" in page
    assert page.endswith("is taken back: by GPTQ 75% in groups of 64.")


def test_what_the_documents_say_of_the_committed_results_is_so():
    dense = SCORES["float32", ""]
    assert SCORES["int8", "nearest, float activations"] < 1.005 * dense < SCORES["int8", "nearest"]
    int4 = {form for form, _ in SCORES if form.startswith("int4")}
    assert int4
    for form in int4:
        assert dense < SCORES[form, "GPTQ"] < SCORES[form, "nearest"]
    assert all(row.get("cpu_seconds", row["seconds"]) < 15 * 60 for row in RESULT["rows"] if "seconds" in row)
