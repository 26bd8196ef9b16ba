"""What is rendered of recipes at full length, and the committed page."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import render_recipes  # noqa: E402

MACHINE = {"cpu": "A CPU", "isa": "avx2", "threads": 2, "versions": {"torch": "2.13.0"}, "commit": "abc", "load": 0.1}
RUN = {"machine": MACHINE, "timed_on": MACHINE, "seconds": 90, "stages": {"distil": {"seconds": 80, "notes": []}}}


def test_half_of_the_layers():
    scores = {"MiniLM-L6": {"Lee50": 0.5}, "3 of 6 layers, untaught": {"Lee50": 0.25}, "3 layers": {"Lee50": 0.45}}
    times = {"1": {"MiniLM-L6": 10.0, "3 layers": 4.0}}
    text = render_recipes.encoder(
        {**RUN, "recipe": "half", "rows": [32, 128], "scores": scores, "milliseconds": times},
    )
    assert "1.5 minutes in all (distil 80 s)" in text
    assert "| | Lee50 | 32 x 128 tokens, 1 thread, ms |" in text
    assert "| 3 of 6 layers, untaught | 0.250 (50%) |  |" in text
    assert "| 3 layers | 0.450 (90%) | 4.0 (2.50x) |" in text


def test_half_of_the_weights():
    scores = {"float32": 20.0, "pruned": 60.0, "taught": 30.0, "taught, int8": 32.0}
    rates = {"2": {"float32": 10.0, "int8": 50.0, "taught, int8": 60.0}}
    text = render_recipes.language_model(
        {
            **RUN,
            "recipe": "sparse",
            "text": [20, 1024],
            "prompt": "Why?",
            "answers": {"taught": "So."},
            "perplexity": scores,
            "tokens_per_second": rates,
        }
    )
    assert "| pruned | 60.00 |  |  |" in text
    assert "| taught, int8 | 32.00 | 70% | 60.0 |" in text
    assert "| int8 |  |  | 50.0 |" in text
    assert "- taught: So." in text


def test_the_committed_page_shows_the_committed_results(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["render_recipes.py", "--check"])
    assert render_recipes.main() == 0
