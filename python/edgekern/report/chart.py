"""Draws the demo's result with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..figures import AFTER, BEFORE, INK, MUTED, new_figure, tidy, title
from .demo import DemoResult, Pair, measured_on


def draw_demo(result: DemoResult, path: Path) -> None:
    """Writes a PNG with a panel each for latency per batch size, size and quality.

    Raises:
        OSError: `path` cannot be written.
    """
    timings = result["latency"]
    tasks = list(result["quality"])
    figure = new_figure(13, 4.6)
    widths = [1.0] * len(timings) + [1.7, 0.9 * len(tasks)]
    panels = figure.subplots(1, len(widths), gridspec_kw={"width_ratios": widths, "wspace": 0.28})

    for panel, timing in zip(panels, timings, strict=False):
        before, after = timing["fp32"]["p50"], timing["int8"]["p50"]
        change = f"{before / after:.1f}x faster" if after <= before else f"{after / before:.1f}x slower"
        pairs: list[Pair] = [{"fp32": before, "int8": after}]
        _bars(panel, pairs, [""], "{:.1f} ms")
        _title(panel, f"Latency, batch {timing['batch']}", change)
    sizes = [result["size"][key] for key in ("linear", "model")]
    scaled: list[Pair] = [{"fp32": size["fp32"] / 1e6, "int8": size["int8"] / 1e6} for size in sizes]
    _bars(panels[-2], scaled, ["Linear weights", "Whole model"], "{:.1f} MB")
    _title(panels[-2], "Size", f"{sizes[0]['fp32'] / sizes[0]['int8']:.1f}x smaller Linears")
    scores = [result["quality"][task] for task in tasks]
    worst = min(score["int8"] - score["fp32"] for score in scores)
    _bars(panels[-1], scores, tasks, "{:.3f}")
    _title(panels[-1], "Agreement with people", f"largest loss {max(0.0, -worst):.4f}")

    sequence = timings[0]["sequence"]
    figure.suptitle(
        f"{result['model']}: float32 and int8", x=0.04, y=0.985, ha="left", size=16, weight="bold", color=INK
    )
    subtitle = f"{measured_on(result)} · median latency at {sequence} tokens, timed in alternating rounds"
    figure.text(0.04, 0.885, subtitle, size=9.5, color=MUTED)
    _legend(figure)
    figure.subplots_adjust(left=0.04, right=0.98, top=0.70, bottom=0.09)
    figure.savefig(path)


def _bars(panel: Any, pairs: Sequence[Pair], labels: Sequence[str], form: str) -> None:
    """A pair of bars for each label, each bar with its value on top; the axis starts at zero and is not drawn."""
    width = 0.38
    for offset, key, colour in ((-0.5, "fp32", BEFORE), (0.5, "int8", AFTER)):
        values = [pair[key] for pair in pairs]  # type: ignore[literal-required]
        bars = panel.bar([i + offset * (width + 0.03) for i in range(len(pairs))], values, width, color=colour)
        panel.bar_label(bars, [form.format(value) for value in values], padding=3, size=8.5, color=INK)
    panel.set_xticks(range(len(labels)), labels, size=9, color=MUTED)
    panel.set_yticks([])
    panel.margins(x=0.12, y=0.14)
    tidy(panel, axes=("bottom",))


def _title(panel: Any, text: str, change: str) -> None:
    title(panel, text, change, AFTER, "bold")


def _legend(figure: Any) -> None:
    for x, colour, label in ((0.86, BEFORE, "float32"), (0.925, AFTER, "int8")):
        figure.text(x, 0.94, "■", color=colour, size=13, va="center")
        figure.text(x + 0.016, 0.942, label, color=INK, size=10, va="center")
