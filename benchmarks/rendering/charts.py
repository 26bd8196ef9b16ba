"""The charts: how far ahead in every cell, the rate of the large cells, and where a model's time goes."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from rendering.bars import tabled
from rendering.results import FLOOR, OURS, OURS_INT4, Results

OURS_COLOUR, RIVAL_COLOUR, FLOOR_COLOUR = "#0b7285", "#adb5bd", "#dee2e6"
COLOURS = {
    OURS: OURS_COLOUR,
    "torch-fp32": "#ced4da",
    "torch-bf16": "#868e96",
    "torch-int8-x86": "#f59f00",
    "torch-int8-onednn": "#ffd8a8",
    "onnxruntime-int8": "#9775fa",
    "openvino-int8": "#e599f7",
}
LARGEST_RATIO = 3.0  # where the colours of the heat map end
STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.dpi": 130,
    "savefig.bbox": "tight",
}
LABELS = {
    "torch-fp32": "torch float32",
    "torch-bf16": "torch bfloat16",
    "torch-int8-x86": "quantize_dynamic (x86)",
    "torch-int8-onednn": "quantize_dynamic (onednn)",
    "onnxruntime-int8": "ONNX Runtime int8",
    "openvino-int8": "OpenVINO int8 weights",
    "onnxruntime-int4": "ONNX Runtime int4",
    "openvino-int4": "OpenVINO int4 weights",
    OURS_INT4: "edgekern int4",
    "openvino-fp32": "OpenVINO float32",
    "onnxruntime-fp32": "ONNX Runtime float32",
    "onnxruntime-int8-static": "ONNX Runtime int8, static",
    "openvino-int8-static": "OpenVINO int8, static",
    "torch-compile": "torch.compile float32",
    "edgekern-nhwc": "edgekern, channels_last",
    "edgekern-nchw": "edgekern, NCHW",
    "edgekern-static-nhwc": "edgekern static, channels_last",
    "edgekern-frozen": "edgekern static, frozen, channels_last",
    "edgekern-frozen-uint8": "edgekern static, frozen, uint8 sums",
    "edgekern-static-nchw": "edgekern static, NCHW",
    "edgekern-dense": "edgekern dense",
    "edgekern-int4-dense": "edgekern int4 dense",
    "edgekern-int4-bitmap": "edgekern int4 bitmap",
    "edgekern-int4-bitmap_2": "edgekern int4 bitmap_2",
    "torch-csr": "torch CSR float32",
    "torch-qnnpack-1x4": "torch QNNPACK 1x4 int8",
    "deepsparse-fp32": "DeepSparse float32",
    "deepsparse-int8": "DeepSparse int8",
    "deepsparse-int8-fast": "DeepSparse int8, saturating",
    "edgekern-int8": "edgekern int8, head float32",
    "edgekern-int8-head": "edgekern int8, head too",
    "edgekern-int4-head": "edgekern int4, head int8",
    "llama-q8_0": "llama.cpp Q8_0",
    "llama-q4_0": "llama.cpp Q4_0",
    FLOOR: "linear layers instant",
}


def label(subject: str) -> str:
    """The subject's name as people write it."""
    return LABELS.get(subject, subject)


def _heat_map(axes: Axes, results: Results, threads: int) -> None:
    cells = {cell.name: cell for cell in tabled(results.cells) if cell.threads == threads}
    layers = list(dict.fromkeys((cell.task["k"], cell.task["n"]) for cell in cells.values()))
    columns = sorted({(not cell.task["cold"], cell.task["m"]) for cell in cells.values()})
    grid = [[float("nan")] * len(columns) for _ in layers]
    for cell in cells.values():
        row = layers.index((cell.task["k"], cell.task["n"]))
        grid[row][columns.index((not cell.task["cold"], cell.task["m"]))] = cell.ahead() or float("nan")
    axes.imshow(grid, cmap="RdYlGn", norm=TwoSlopeNorm(1.0, 0.5, LARGEST_RATIO), aspect="auto", alpha=0.8)
    for y, row_values in enumerate(grid):
        for x, ratio in enumerate(row_values):
            if ratio == ratio:
                axes.text(x, y, f"{ratio:.2f}", ha="center", va="center", weight="bold" if ratio < 1 else "normal")
    axes.set_xticks(range(len(columns)), [f"{m}" if warm else "1, cold" for warm, m in columns])
    axes.set_yticks(range(len(layers)), [f"{k} → {n}" for k, n in layers])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("rows of x (M)")
    axes.set_title(f"{threads} thread{'s' * (threads > 1)}")


def draw_ratios(results: Results, path: Path) -> None:
    """A heat map a thread count: times faster than the best rival of each cell."""
    counts = sorted({cell.threads for cell in results.cells})
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(counts), figsize=(5.6 * len(counts), 3.4), squeeze=False, sharey=True)
        for each, threads in zip(axes[0], counts, strict=True):
            _heat_map(each, results, threads)
        axes[0][0].set_ylabel("layer (K → N)")
        figure.suptitle("edgekern against the fastest rival of each cell (above 1: edgekern is faster)", y=1.04)
        figure.savefig(path)
        plt.close(figure)


def draw_rates(results: Results, path: Path) -> None:
    """Multiply-adds a second at M = 128 (or the most rows there are) on the most threads, beside the machine's peak."""
    most = max(cell.threads for cell in results.cells)
    cells = [cell for cell in tabled(results.cells) if cell.threads == most and not cell.task["cold"]]
    m = min((cell.task["m"] for cell in cells), key=lambda rows: abs(rows - 128))
    cells = [cell for cell in cells if cell.task["m"] == m]
    subjects = [name for name in results.subjects() if any(name in cell.timings for cell in cells)]
    width = 0.84 / len(subjects)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9.5, 3.8))
        for i, name in enumerate(subjects):
            rates = [_rate(cell.task, cell.seconds(name)) for cell in cells]
            places = [x + (i - (len(subjects) - 1) / 2) * width for x in range(len(cells))]
            axes.bar(places, rates, width, color=COLOURS.get(name), label=label(name))
        for x, cell in enumerate(cells):
            if peak := cell.limits.get("peak-int8"):
                rate = peak["work"] / peak["median_s"] / 1e9
                text = "int8 peak, measured" if x == 0 else None
                axes.hlines(rate, x - 0.46, x + 0.46, color="#c92a2a", linestyle="--", linewidth=1.2, label=text)
        axes.set_xticks(range(len(cells)), [f"{cell.task['k']} → {cell.task['n']}" for cell in cells])
        axes.set_ylabel("billion multiply-adds / s")
        axes.set_title(f"M = {m}, {most} thread{'s' * (most > 1)}")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.savefig(path)
        plt.close(figure)


def _rate(task: dict[str, int], seconds: float | None) -> float:
    return task["m"] * task["k"] * task["n"] / seconds / 1e9 if seconds else 0.0


def draw_model(results: Results, path: Path) -> None:
    """Latency of the model for each batch on the most threads, and edgekern's time by kind of work."""
    most = max(cell.threads for cell in results.cells)
    cells = [cell for cell in results.cells if cell.threads == most]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(cells), figsize=(6.0 * len(cells), 3.2), squeeze=False)
        for each, cell in zip(axes[0], cells, strict=True):
            order = sorted(cell.timings, key=lambda name: -cell.timings[name]["median_s"])
            values = [cell.timings[name]["median_s"] * 1e3 for name in order]
            colours = [{OURS: OURS_COLOUR, FLOOR: FLOOR_COLOUR}.get(name, RIVAL_COLOUR) for name in order]
            bars = each.barh([label(name) for name in order], values, color=colours)
            each.bar_label(bars, fmt="%.1f", padding=3)
            each.set_xlim(right=max(values) * 1.12)
            each.set_xlabel("ms a call, median")
            each.set_title(f"MiniLM, {cell.name}, {cell.task['sequence']} tokens, {most} threads")
        figure.tight_layout(w_pad=2.5)
        figure.savefig(path)
        plt.close(figure)
