"""What is rendered of two processes against one, and the committed page."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import render_parallel  # noqa: E402
from parallel_chart import draw  # noqa: E402

MACHINE = {"cpu": "A CPU", "isa": "avx2", "versions": {"torch": "2.13.0"}, "commit": "abc"}


def test_times_of_a_pipeline():
    head = {"machine": MACHINE, "scheme": "int8", "prompt": 512, "batch": 8, "written": 32, "pieces": 8, "rounds": 3}
    row = {"task": "many", "seconds": {"one": [4.0, 3.0, 9.0], "two": [2.0, 2.5, 1.0]}, "ahead": 2.0}
    near = {"network": "loopback", "rows": [{**row, "same_tokens": True}] * 3}
    text = render_parallel.pipeline({**head, "networks": [near]})
    assert "| one process | 4.000 | 4.000 | 4.000 |\n| two over loopback | 2.000 (2.00) | 2.000 (2.00) |" in text
    assert "Tokens are the same each time." in text
    assert "namespaces" not in text
    far = {"network": "40mbit", "delay": 3e-3, "rate": 40e6, "round_trip": 6.1e-3, "measured_rate": 37.6e6}
    far |= {"link_share": 0.024, "rows": [{**row, "same_tokens": False, "ahead": 0.5}] * 3}
    text = render_parallel.pipeline({**head, "networks": [near, far]})
    assert "| two over 40 Mbit/s, 3 ms each way | 2.000 (0.50) |" in text
    assert (
        "Programs see 6.10 ms there and back and 38 Mbit/s. While ranks work, the link takes up to 2% of a core" in text
    )
    assert "Not all tokens are the same." in text


def test_joules_of_a_pipeline():
    head = {"machine": MACHINE, "scheme": "int8", "prompt": 512, "batch": 8, "written": 32, "pieces": 8, "rounds": 1}
    row = {"task": "many", "seconds": {"one": [4.0], "two": [2.0]}, "ahead": 2.0, "same_tokens": True}
    older = render_parallel.pipeline({**head, "networks": [{"network": "loopback", "rows": [row] * 3}]})
    none = {**row, "joules": {"one": None, "two": None}}
    energy = {"source": None, "scope": None, "why_none": "no energy was measured: there is no sensor"}
    near = {"network": "loopback", "rows": [none] * 3}
    assert render_parallel.pipeline({**head, "energy": energy, "networks": [near]}) == older
    near["rows"] = [none, none, {**row, "joules": {"one": 12.5, "two": 20.0}}]
    energy = {"source": "rapl", "scope": "package", "why_none": None}
    text = render_parallel.pipeline({**head, "energy": energy, "networks": [near]})
    assert "J by rapl, package; of the whole machine, others' work included:" in text
    assert "| one process, in turns with loopback | - | - | 12.5 |\n| two over loopback | - | - | 20 |" in text


def test_perplexities_within_layers():
    divided = {"perplexity": 20.1, "largest_difference": 1.0, "error": 0.012}
    row = {"scheme": "int8", "alone": 20.0, "divided": {"floats": {**divided, "perplexity": 20.0}, "int8": divided}}
    text = render_parallel.tensor({"machine": MACHINE, "windows": 2, "tokens": 1024, "rows": [row]})
    assert "| int8 | 20.0000 | 20.0000 (+0.00%) | 1.2e-02 | 20.1000 (+0.50%) | 1.2e-02 |" in text


def result_of_a_training():
    row = {"name": "one rank", "ranks": 1, "seconds": 20.4, "accuracy": 86.064, "zeros": 0.79999, "first": 0.0}
    row |= {"curve": 0.0, "masks": ["a"], "weights": ["b"], "last": 0.17339, "losses": [0.9, 0.5, 0.2]}
    two = {**row, "name": "two ranks", "ranks": 2, "first": 4.77e-7, "curve": 0.0321, "masks": ["a", "a"]}
    two |= {"weights": ["b", "b"], "losses": [0.9, 0.5001, 0.2003]}
    effort = {"pruned": 8, "images": 8000}
    head = {"machine": {**MACHINE, "load": 1.5}, "effort": effort, "batch": 128, "thinned": 10, "first": 10}
    return {**head, "norms": {"batch norms": [row, two]}}


def test_losses_of_ranks():
    result = result_of_a_training()
    text = render_parallel.training(result)
    assert "pruned to 80.0% zeros meanwhile, in 8 epochs of 8,000 images and batches of 128" in text
    assert "| batch norms | first 10 steps |" in text
    assert "| one rank |  |  | 0.1734 | 86.06 |  |" in text
    assert "| two ranks | 4.8e-07 | 3.2e-02 | 0.1734 | 86.06 | and weights the same on 2 ranks |" in text
    result["norms"]["batch norms"][1]["masks"] = ["a", "c"]
    assert "| DIFFER |" in render_parallel.training(result)


def test_losses_are_drawn(tmp_path):
    draw(result_of_a_training(), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_committed_page_shows_the_committed_results(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["render_parallel.py", "--check"])
    assert render_parallel.main() == 0
