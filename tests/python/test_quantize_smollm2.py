"""The benchmarks of quantised models: their cases on small models, the page, the committed results."""

from __future__ import annotations

import json
import math
import sys
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from small_models import BLOCK_LAYERS, LanguageModel, native_names
from torch import nn

from edgekern.nn import NativeLayer

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]

import quantize_cases  # noqa: E402
import render_quantize  # noqa: E402

RESULT = json.loads((ROOT / "benchmarks/results/quantize-smollm2.json").read_text())
SCORES = {(row["format"], row["method"]): row["perplexity"] for row in RESULT["rows"]}
NETWORK = json.loads((ROOT / "benchmarks/results/quantize-efficientnet.json").read_text())
ALIKE, KL, ERROR = "the same answer as float32, rate", "KL divergence to float32", "error of the logits"


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")
@pytest.mark.parametrize("benchmark", ["quantize_lm", "quantize_models"])
def test_each_case_converts_a_copy(benchmark):
    cases = __import__(benchmark).CASES
    model = LanguageModel()
    data = [{"ids": torch.randint(40, (2, 16))} for _ in range(2)]
    assert len({(case.format, case.method) for case in cases}) == len(cases)
    for case in cases:
        result, facts = quantize_cases.converted(case, model, data)
        assert native_names(result) == ([] if case.scheme is None or case.dense else BLOCK_LAYERS)
        assert native_names(model) == []
        assert ("layers" in facts) == any(word in case.method for word in ("GPTQ", "AWQ", "SmoothQuant"))
        if facts:
            assert facts["layers"] == 4
            assert 0 < facts["error_ratio"] < 2


@pytest.mark.skipif(find_spec("PIL") is None, reason="needs Pillow")
def test_likeness_of_logits():
    likeness = __import__("quantize_models").likeness
    expected = torch.tensor([[0.0, 3.0], [4.0, 0.0]])
    assert likeness(expected, expected) == {ALIKE: 1, KL: 0, ERROR: 0}
    found = likeness(torch.tensor([[0.0, 3.0], [0.0, 0.0]]), expected)
    assert found[ALIKE] == 1  # of two that are the same the first is taken
    assert found[ERROR] == pytest.approx(4 / 5)
    p = 1 / (1 + math.exp(-4))
    assert found[KL] == pytest.approx((p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))) / 2)
    assert likeness(expected.flip(1), expected)[ALIKE] == 0


@pytest.mark.skipif(find_spec("PIL") is None, reason="needs Pillow")
def test_each_case_converts_a_network():
    quantize_models = __import__("quantize_models")
    torch.manual_seed(0)
    layers = {"stem": nn.Conv2d(3, 8, 3), "depthwise": nn.Conv2d(8, 8, 3, groups=8), "project": nn.Conv2d(8, 16, 1)}
    model = nn.Sequential(OrderedDict(**layers, flat=nn.Flatten(), fc=nn.Linear(256, 4))).eval()
    data, cases = [torch.randn(4, 3, 8, 8)], quantize_models.IMAGE_CASES
    assert len({(case.format, case.method) for case in cases}) == len(cases)
    for case in cases:
        result, facts = quantize_cases.converted(case, model, data, quantize_models.beside_depthwise)
        found = {name: module.format for name, module in result.named_children() if isinstance(module, NativeLayer)}
        wanted = case.format.partition(",")[0]
        expected = {} if case.scheme is None else dict.fromkeys(layers, wanted) | {"depthwise": "int8", "fc": wanted}
        if case.spares_one:
            (spared,) = facts["left_alone"]
            del expected[spared]
        assert found == expected, case
        assert ("layers" in facts) == ("GPTQ" in case.method)


def test_the_most_sensitive_layer_is_found():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        model[2].weight[:, 0] *= 1000  # its rows' steps become coarse
        model[0].weight[0], model[0].bias[0] = 0, 0  # of an input that is always zero
    assert quantize_cases.most_sensitive(model, [torch.randn(32, 16)], quantize_cases.int8()) == "2"


def test_results_are_kept_in_the_order_of_the_cases(tmp_path):
    cases = [quantize_cases.Case("float32", None), quantize_cases.Case("int8", quantize_cases.int8())]
    for case in reversed(cases):
        quantize_cases.keep(tmp_path / "r.json", cases, case, {"load": 0.5}, {"kind": "x"}, {"perplexity": 3.0})
    kept = json.loads((tmp_path / "r.json").read_text())
    assert [row["format"] for row in kept["rows"]] == ["float32", "int8"]
    assert kept["rows"][1]["config"] == {"format": "int8", "form": "dense"}
    assert (kept["kind"], kept["machine"]) == ("x", {"load": 0.5})
    assert quantize_cases.chosen(cases, "int8 nearest") == quantize_cases.chosen(cases, "int8") == cases[1:]


def rows(*perplexities):
    names = [("float32", ""), ("int4, groups of 64", "nearest"), ("int4, groups of 64", "GPTQ")]
    found = [
        {"format": form, "method": method, "perplexity": value, "load": 0.2}
        for (form, method), value in zip(names, perplexities, strict=True)
    ]
    return [*found[:2], {**found[2], "error_ratio": 0.256, "cpu_seconds": 99}]


def test_rendering():
    page = render_quantize.table({**RESULT, "rows": rows(10.0, 14.0, 11.0)})
    assert "| int4, groups of 64 | nearest | 14.00 | +40.0% |  |  |  |" in page
    assert "| int4, groups of 64 | GPTQ | 11.00 | +10.0% | 75% | 0.26 | 99 |" in page
    assert "| float32 |  | 10.00 |  |  |  |  |" in page


def test_rendering_of_several_scores():
    scores = {"Lee50": 0.6561, "word error rate": 0.125, "right, of 20": 18}
    scored = [{"format": "int8", "method": "AWQ", "scores": scores, "load": 1.0}]
    about = {"model": "Whisper base", "calibration": "others", "scores": "lower is better"}
    page = render_quantize.score_table({**about, "machine": RESULT["machine"], "rows": scored})
    assert "| weights | rounded | Lee50 | word error rate | right, of 20 | error of a layer | seconds |" in page
    assert "| int8 | AWQ | 0.6561 | 12.5% | 18 |  |  |" in page


def test_what_the_documents_say_of_the_committed_results_is_so():
    dense = SCORES["float32", ""]
    assert SCORES["int8", "AWQ"] < 1.005 * dense < SCORES["int8", "nearest"]
    int4 = {form for form, _ in SCORES if form.startswith("int4")}
    assert int4
    for form in int4:
        assert dense < SCORES[form, "GPTQ, clipped"] < SCORES[form, "nearest"]
    lost, left = (SCORES["int4, groups of 64", how] - dense for how in ("nearest", "AWQ, GPTQ, clipped, 24 windows"))
    assert left < lost / 2
    usual = [row for row in RESULT["rows"] if "seconds" in row and "windows" not in row["method"]]
    assert all(row.get("cpu_seconds", row["seconds"]) < 15 * 60 for row in usual)


def test_what_the_documents_say_of_a_network_is_so():
    scores = {(row["format"], row["method"]): row["scores"] for row in NETWORK["rows"]}
    static = ("", " by percentile", " by mse")
    for ranges in ("", *(f", static ranges{how}" for how in static)):
        nearest, by_gptq = (scores["int8", how + ranges] for how in ("nearest", "GPTQ, bias corrected"))
        assert by_gptq[ERROR] < nearest[ERROR] / 2
        assert by_gptq[KL] < nearest[KL] / 5
        assert by_gptq[ALIKE] > nearest[ALIKE]
    for how in static[1:]:
        for measure in (KL, ERROR):
            found, usual = (scores["int8", f"GPTQ, bias corrected, static ranges{ranges}"] for ranges in (how, ""))
            assert found[measure] < usual[measure]
            found, usual = (scores["int8", f"nearest, static ranges{ranges}"] for ranges in (how, ""))
            assert found[measure] > usual[measure]
    for ranges in ("", ", static ranges by mse"):
        assert scores["int8", f"GPTQ, bias corrected{ranges}"][ALIKE] >= 0.97
    sparing = [row for row in NETWORK["rows"] if "most sensitive" in row["method"]]
    assert sparing
    for row in sparing:
        rounded = scores["int8", row["method"].removesuffix(", most sensitive layer in floats")]
        assert row["left_alone"] == ["_blocks.0._depthwise_conv"]
        assert all(row["scores"][measure] < rounded[measure] for measure in (KL, ERROR))
    page = render_quantize.score_table(NETWORK)
    assert all(f"{row[KL]:.4f} | {row[ERROR]:.4f}" in page for row in scores.values())
