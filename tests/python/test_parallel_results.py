"""What is rendered of two processes against one, and the committed page."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import render_parallel  # noqa: E402

MACHINE = {"cpu": "A CPU", "isa": "avx2", "versions": {"torch": "2.13.0"}, "commit": "abc"}


def test_times_of_a_pipeline():
    head = {"machine": MACHINE, "scheme": "int8", "prompt": 512, "batch": 8, "written": 32, "pieces": 8, "rounds": 3}
    row = {"task": "many", "seconds": {"one": [4.0, 3.0, 9.0], "two": [2.0, 2.5, 1.0]}, "ahead": 2.0}
    rows = [{**row, "same_tokens": True}, {**row, "task": "write", "same_tokens": False}]
    text = render_parallel.pipeline({**head, "rows": rows})
    assert "| reading 8 prompts of 512 tokens | 4.000 | 2.000 | 2.00 | the same |" in text
    assert "| writing 32 tokens after 128 | 4.000 | 2.000 | 2.00 | others |" in text


def test_joules_of_a_pipeline():
    head = {"machine": MACHINE, "scheme": "int8", "prompt": 512, "batch": 8, "written": 32, "pieces": 8, "rounds": 1}
    row = {"task": "many", "seconds": {"one": [4.0], "two": [2.0]}, "ahead": 2.0, "same_tokens": True}
    older = render_parallel.pipeline({**head, "rows": [row]})
    none = {**row, "joules": {"one": None, "two": None}}
    energy = {"source": None, "scope": None, "why_none": "no energy was measured: there is no sensor"}
    assert render_parallel.pipeline({**head, "energy": energy, "rows": [none]}) == older
    some = {**row, "task": "write", "joules": {"one": 12.5, "two": 20.0}}
    energy = {"source": "rapl", "scope": "package", "why_none": None}
    text = render_parallel.pipeline({**head, "energy": energy, "rows": [none, some]})
    assert "| | one process, s | two, s | times as fast | one process, J | two, J | tokens |" in text
    assert "| reading 8 prompts of 512 tokens | 4.000 | 2.000 | 2.00 | - | - | the same |" in text
    assert "| writing 32 tokens after 128 | 4.000 | 2.000 | 2.00 | 12.5 | 20 | the same |" in text
    assert text.endswith("J by rapl, package; of the whole machine, others' work included.")


def test_perplexities_within_layers():
    divided = {"perplexity": 20.1, "largest_difference": 1.0, "error": 0.012}
    row = {"scheme": "int8", "alone": 20.0, "divided": {"floats": {**divided, "perplexity": 20.0}, "int8": divided}}
    text = render_parallel.tensor({"machine": MACHINE, "windows": 2, "tokens": 1024, "rows": [row]})
    assert "| int8 | 20.0000 | 20.0000 (+0.00%) | 1.2e-02 | 20.1000 (+0.50%) | 1.2e-02 |" in text


def test_the_committed_page_shows_the_committed_results(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["render_parallel.py", "--check"])
    assert render_parallel.main() == 0
