"""The benchmark of memory: the checkpoint it makes, the limit it sets, the page, and the committed results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5")

from tiny_llama import logits  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern.integrations.saving import save_converted  # noqa: E402
from edgekern.integrations.transformers import EdgekernConfig  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]

import quantize_memory  # noqa: E402
import render_language_models  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc"),
]
RESULT = json.loads(quantize_memory.RESULT.read_text())


def test_the_checkpoint_loads_and_its_converted_size_is_foreseen(tmp_path, monkeypatch):
    monkeypatch.setattr(quantize_memory, "FILE_BYTES", 300_000)
    like = quantize_memory.generate(tmp_path / "floats", 3, quantize_memory.TINY)
    assert len(list((tmp_path / "floats").glob("model-*.safetensors"))) > 3
    config = EdgekernConfig(ek.Int4())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "floats", quantization_config=config, dtype="auto")
    assert sum(row.format == "int4" for row in ek.explain(model)) == 21
    assert logits(model).isfinite().all()
    save_converted(model, tmp_path / "int4")
    stored = quantize_memory.size_of(tmp_path / "int4")
    assert quantize_memory.expected_bytes(like) <= stored < quantize_memory.expected_bytes(like) + 20_000  # the header


def take(megabytes):
    code = f"import time; data = bytearray({megabytes} << 20); time.sleep(0.5)"
    return [sys.executable, "-c", code]


@pytest.mark.not_emulated("the emulator's own memory is seen")
def test_more_than_the_limit_is_an_error():
    peak, _ = quantize_memory.run(take(64))
    assert 64 << 20 < peak.anonymous < 128 << 20
    assert peak.anonymous <= peak.resident
    within, _ = quantize_memory.run(take(64), 200 << 20)
    assert within.anonymous == pytest.approx(peak.anonymous, rel=0.1)
    with pytest.raises(RuntimeError, match=r"took .* more than|killed, as it needed more"):
        quantize_memory.run(take(300), 200 << 20)
    with pytest.raises(RuntimeError, match="ended with 3"):
        quantize_memory.run([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_page_shows_the_committed_results(capsys):
    sys.argv[1:], before = ["--check"], sys.argv[1:]
    try:
        assert render_language_models.main() == 0, capsys.readouterr().err
    finally:
        sys.argv[1:] = before


def test_what_is_promised_of_the_committed_results_is_so():
    for facts in (RESULT["convert"], RESULT["load"]):
        assert facts["resident_bytes"] < RESULT["limit_bytes"]
    over = RESULT["limit_bytes"] - RESULT["layer_bytes"] - RESULT["allowance_bytes"]
    assert over == pytest.approx(RESULT["converted_bytes"], rel=0.01)
    assert RESULT["limit_bytes"] < 0.5 * RESULT["checkpoint_bytes"]  # or it would prove nothing
