"""What is rendered of convolutions: single layers, whole networks, where the time goes, and the committed page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import conv2d  # noqa: E402
import render  # noqa: E402
from rendering.cnn import cnn_section, layer_table  # noqa: E402
from rendering.conv2d import ahead, conv2d_section, peak_share  # noqa: E402
from rendering.results import newest, read_results, short_name  # noqa: E402
from results_file import ENERGY, JOULES_NOTE, with_joules, write_file  # noqa: E402

FACTS = {"samples": 9, "rounds": 7, "foreign_load": 0.0}
NHWC = "edgekern-nhwc"
WIDE, DEPTHWISE = "1x1-80-480-14", "depthwise5x5-240-28"
LAYERS = {
    "stem": {"kind": "stem", "shape": "3x8x8 to 8x4x4", "macs": 2_000_000},
    "a": {"kind": "1x1", "shape": "8x4x4 to 8x4x4", "macs": 3_000_000},
    "b": {"kind": "1x1", "shape": "8x4x4 to 16x4x4", "macs": 6_000_000},
}
SECONDS = {"stem": 1e-3, "a": 0.5e-3, "b": 1.5e-3, "other": 1e-3}


def layer_records(name: str, threads: int = 2, **milliseconds: float) -> list[dict]:
    """One cell of conv2d.py, by subject; "_" in a subject's name stands for "-". A tenth of the peak at 1 ms."""
    task = next(cell for cell in conv2d.all_cells() if cell["name"] == name)
    own = {"threads": threads, **task, **FACTS}
    limit = {"kind": "limit", "subject": "peak-int8", "median_s": 1e-3, "work": 10 * task["macs"], "isa": "avx2", **own}
    return [limit] + [
        {"kind": "timing", "subject": f"conv-{subject.replace('_', '-')}", "median_s": time * 1e-3, **own}
        for subject, time in milliseconds.items()
    ]


def network_records(network: str, batch: int, **milliseconds: float) -> list[dict]:
    own = {"threads": 2, "name": f"{network}-b{batch}", "network": network, "batch": batch, **FACTS}
    answers = {"relative_error": 0.02, "agreeing": 19, "images": 20}
    limit = {"kind": "limit", "subject": "peak-int8", "median_s": 1e-3, "work": 12_000_000, "isa": "avx2", **own}
    records = [limit]
    for subject, time in milliseconds.items():
        name = f"cnn-{subject.replace('_', '-')}"
        extra = {"layers": LAYERS, "int8_layers": 3} if name.startswith("cnn-edgekern") else {}
        records.append({"kind": "timing", "subject": name, "median_s": time * 1e-3, **own, **answers, **extra})
    records.append({"kind": "profile", "subject": f"cnn-{NHWC}", "threads": 2, "name": own["name"], "seconds": SECONDS})
    return records


ORT = "onnxruntime_int8_static"


def single_layers() -> list[dict]:
    return [
        *layer_records(WIDE, edgekern_nhwc=1.5, edgekern_static_nhwc=1.0, torch_fp32=4.0, **{ORT: 2.0}),
        *layer_records(DEPTHWISE, edgekern_nhwc=3.0, edgekern_static_nhwc=2.0, torch_fp32=4.0, **{ORT: 1.0}),
    ]


def networks() -> list[dict]:
    return [
        *network_records("resnet18", 1, edgekern_nhwc=4.0, edgekern_nchw=5.0, torch_fp32=16.0, **{ORT: 8.0}),
        *network_records("resnet18", 8, edgekern_nhwc=40.0, edgekern_nchw=50.0, torch_fp32=160.0, **{ORT: 20.0}),
    ]


def test_names_go_without_what_is_run() -> None:
    assert [short_name(name) for name in ("conv-torch-fp32", "cnn-edgekern-nhwc", "llama-q8_0")] == [
        "torch-fp32",
        NHWC,
        "llama-q8_0",
    ]


def test_single_layers(tmp_path: Path) -> None:
    results = read_results(write_file(tmp_path, single_layers(), "conv2d"))
    wide, depthwise = results.cells
    assert (ahead(wide), ahead(depthwise)) == (2.0, 0.5)
    assert peak_share(wide) == pytest.approx(0.1)
    page = conv2d_section(results)
    assert f"| {WIDE}, 3 times | 7.5 | 1,500 | **1,000** | 4,000 | *2,000* | 2.00 | 10% |" in page
    assert f"| {DEPTHWISE} | 4.7 | 3,000 | 2,000 | 4,000 | **1,000** | **0.50** | 5% |" in page
    assert "| all | 27.3 | 7,500 | 5,000 | 16,000 | 7,000 |  |  |" in page
    assert "| 1x1, edgekern, channels_last | 2.67 | 1.33 |" in page
    assert "| 1x1, edgekern static, channels_last | 4.00 | 2.00 |" in page
    assert "| depthwise, edgekern static, channels_last | 2.00 | **0.50** |" in page
    assert "| each rival's time over ours | torch float32, 2 threads | ONNX Runtime int8, static, 2 threads |" in page


def test_a_layer_that_was_not_measured_is_not_in_a_sum(tmp_path: Path) -> None:
    records = [
        record
        for record in single_layers()
        if (record["subject"], record["name"]) != ("conv-onnxruntime-int8-static", WIDE)
    ]
    page = conv2d_section(read_results(write_file(tmp_path, records, "conv2d")))
    assert f"| {WIDE}, 3 times | 7.5 | 1,500 | **1,000** | *4,000* | - | 4.00 | 10% |" in page
    assert "| all | 27.3 | 7,500 | 5,000 | 16,000 | - |  |  |" in page


def test_whole_networks(tmp_path: Path) -> None:
    failure = {"kind": "failure", "subject": "cnn-torch-compile", "threads": 2, "reason": "no compiler"}
    results = read_results(write_file(tmp_path, [*networks(), failure], "cnn"))
    page = cnn_section(results)
    assert "| edgekern, channels_last | **4.0** | 40.0 | 19 of 20 | 2.0% |" in page
    assert "| ONNX Runtime int8, static | *8.0* | **20.0** | 19 of 20 | 2.0% |" in page
    assert "|  | batch 1, 2 threads | batch 8, 2 threads | same class | error |" in page
    assert (
        "Geometric means over these columns, edgekern, channels_last: 4.00 times as fast as torch float32, "
        "1.00 times as fast as ONNX Runtime int8, static. Ahead of all rivals in 1 of 2 columns."
    ) in page
    assert "edgekern static, channels_last:" not in page
    assert "- torch.compile float32, all cells, 2 threads: no compiler" in page
    assert "in floats" not in page


@pytest.mark.parametrize(
    ("benchmark", "records", "section", "header", "row"),
    [
        (
            "conv2d",
            single_layers(),
            conv2d_section,
            "edgekern, channels_last | edgekern static, channels_last | torch float32 | ONNX Runtime int8, static",
            f"{DEPTHWISE}, 2 threads | 0.03 | 0.02 | 0.04 | 0.01",
        ),
        (
            "cnn",
            networks(),
            cnn_section,
            "edgekern, channels_last | edgekern, NCHW | torch float32 | ONNX Runtime int8, static",
            "resnet18-b8, 2 threads | 0.4 | 0.5 | 1.6 | 0.2",
        ),
    ],
    ids=["conv2d", "cnn"],
)
def test_joules(tmp_path: Path, benchmark: str, records: list, section: object, header: str, row: str) -> None:
    page = section(read_results(write_file(tmp_path, with_joules(records), benchmark, energy=ENERGY)))
    assert page.count(JOULES_NOTE) == 1
    assert f"| J/inference | {header} |" in page
    assert f"| {row} |" in page


def test_a_layer_left_in_floats_is_told(tmp_path: Path) -> None:
    records = networks()
    records[1]["int8_layers"] = 2
    assert "edgekern left 1 of the layers in floats." in cnn_section(read_results(write_file(tmp_path, records, "cnn")))


def test_where_the_time_goes(tmp_path: Path) -> None:
    page = cnn_section(read_results(write_file(tmp_path, networks(), "cnn")))
    assert (
        "| ResNet-18, edgekern, channels_last | layers | million multiply-adds | ms, 2 threads | of time | of peak |"
        in page
    )
    rows = ["| 1x1 | 2 | 9.0 | 2.00 | 50% | 38% |", "| stem | 1 | 2.0 | 1.00 | 25% | 17% |"]
    assert "\n".join([*rows, "| other |  |  | 1.00 | 25% |  |"]) in page


def test_layers_one_by_one() -> None:
    lines = layer_table(LAYERS, SECONDS, peak=12e9).splitlines()
    assert lines[2:] == [
        "| stem | stem | 3x8x8 to 8x4x4 | 2.0 | 1.000 | 25% | 17% |",
        "| a | 1x1 | 8x4x4 to 8x4x4 | 3.0 | 0.500 | 12% | 50% |",
        "| b | 1x1 | 8x4x4 to 16x4x4 | 6.0 | 1.500 | 38% | 33% |",
        "| all 2 1x1 |  |  | 9.0 | 2.000 | 50% | 38% |",
        "| all 1 stem |  |  | 2.0 | 1.000 | 25% | 17% |",
        "| other |  |  |  | 1.000 | 25% |  |",
    ]


def test_render_fills_the_places_that_were_measured(tmp_path: Path) -> None:
    write_file(tmp_path / "benchmarks/results", networks(), "cnn")
    (tmp_path / "docs").mkdir()
    page = tmp_path / render.CONVOLUTIONS
    places = {name: "\nNot measured yet\n".join(render.marks(name)) for name in render.CONVOLUTION_SECTIONS}
    page.write_text("\n".join(["# Convolutions", *places.values(), "end\n"]))
    readme = tmp_path / "README.md"
    readme.write_text(f"{render.START}\n{render.END}\n")
    render.main(tmp_path)
    text = page.read_text()
    assert "### Whole networks: Example 9000" in text
    assert places["conv2d"] in text
    assert "networks" not in (tmp_path / "docs/benchmarks.md").read_text()
    with pytest.raises(render.typer.Exit) as fresh:
        render.main(tmp_path, check=True)
    assert fresh.value.exit_code == 0
    page.write_text(text.replace("**4.0**", "**3.0**"))
    with pytest.raises(render.typer.Exit) as stale:
        render.main(tmp_path, check=True)
    assert stale.value.exit_code == 1


def test_the_committed_page_shows_the_committed_results() -> None:
    results = newest(sorted((ROOT / "benchmarks/results").glob("*.jsonl")))
    page = (ROOT / render.CONVOLUTIONS).read_text()
    assert render.convolutions(results, page) == page
    measured = {each.benchmark for each in results}
    for name in render.CONVOLUTION_SECTIONS:
        start, end = render.marks(name)
        assert page.count(start) == page.count(end) == 1
        shown = page.split(start)[1].split(end)[0]
        assert shown.startswith("\nNot measured yet") == (name not in measured)
