"""What trains for fewer bits and what is allocated: the programs on small models, the pages, the committed results."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from small_models import BLOCK_LAYERS, LanguageModel

import edgekern as ek

pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("scripts", "benchmarks", "examples")]

import allocate_lm  # noqa: E402
import qat_minilm  # noqa: E402
import render_bits  # noqa: E402
from test_prune_minilm import TEXTS, needs_model, teacher  # noqa: E402, F401  # a fixture

pytestmark = pytest.mark.usefixtures("one_thread")


def committed(name):
    file = ROOT / f"benchmarks/results/{name}.json"
    if not file.exists():
        pytest.skip(f"{file.name} is not measured yet")
    return json.loads(file.read_text())


# ------------------------------------------------------------------------------------------------ allocation


class Called(LanguageModel):
    def forward(self, input_ids, use_cache=False):
        return type("Output", (dict,), {"logits": property(lambda self: self["logits"])})(
            logits=super().forward(input_ids)
        )


def test_a_scan_is_kept_and_each_row_measured(tmp_path):
    torch.manual_seed(0)
    model, ids = Called(tied=False), torch.randint(0, 40, (5000,))
    data = [{"input_ids": window[None]} for window in ids.view(-1, 50)[:4]]
    scan, seconds = allocate_lm.scanned(model, data, tmp_path / "scan.json")
    again, same = allocate_lm.scanned(model, [], tmp_path / "scan.json")
    assert (again, same) == (scan, seconds)
    for config in (ek.Int8(), ek.allocate(scan, "10 bpw")):
        row = allocate_lm.measured(model, config, scan, ids.view(-1, 50)[:2])
        assert sum(row["layers"].values()) == len(BLOCK_LAYERS)
        assert row["perplexity"] > 1
        assert allocate_lm.predicted(config, scan) > 0
        if isinstance(config, ek.PerLayer):
            assert row["bits"] <= 10
    assert allocate_lm.measured(model, ek.Int8(), scan, ids.view(-1, 50)[:2])["bits"] > 8


def test_allocated_models_keep_their_budget_and_beat_uniform_ones_of_their_size():
    result = committed("allocate-smollm2")
    rows = {row["name"]: row for row in result["rows"]}
    uniform = [row for row in rows.values() if len(row["layers"]) == 1]
    within = [(float(name.removesuffix(" bpw")), row) for name, row in rows.items() if name.endswith("bpw")]
    assert len(uniform) == 4
    assert len(within) >= 2
    for bits, row in within:
        assert 0.97 * bits < row["bits"] <= bits
        assert row["perplexity"] < min(other["perplexity"] for other in uniform if other["bits"] <= row["bits"])
    page = render_bits.allocated(result)
    assert all(f"{row['perplexity']:.2f}" in page for row in rows.values())


# ------------------------------------------------------------------------------------------------ training


@needs_model
def test_training_brings_a_rounded_encoder_nearer(teacher):  # noqa: F811
    config = ek.PerLayer({"re:encoder.*": ek.Int4(32)})
    student, rounded = qat_minilm.copy_of(teacher), qat_minilm.copy_of(teacher)
    held_out = list(qat_minilm.batches(teacher, TEXTS, 2, seed=9))
    ek.convert_(rounded.model, config)
    assert len(ek.prepare_qat_(student.model, config).prepared) == 12  # the encoder's six a layer, not the pooler
    assert qat_minilm.train(student, teacher, TEXTS, 20).steps == 20
    prepared = qat_minilm.apart(student, teacher, held_out)
    ek.convert_(student.model, config)
    assert qat_minilm.apart(student, teacher, held_out) == pytest.approx(prepared, rel=1e-3)
    assert prepared < qat_minilm.apart(rounded, teacher, held_out)
    assert qat_minilm.apart(copy.deepcopy(teacher), teacher, held_out) == 0


def test_training_took_back_most_of_what_rounding_cost():
    result = committed("qat-minilm")
    floats, nearest, trained = result["rows"]
    assert floats["distance"] == 0
    assert trained["distance"] < 0.5 * nearest["distance"]
    page = render_bits.trained(result)
    assert all(f"{row['distance']:.4f}" in page for row in result["rows"])
