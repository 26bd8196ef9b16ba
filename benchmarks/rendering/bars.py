"""The project's goals for speed, and what a results file says about each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rendering.results import OURS, OURS_INT4, Cell, Results


def geometric_mean(ratios: Sequence[float]) -> float:
    """Raises ValueError when there are none."""
    if not ratios:
        raise ValueError("geometric_mean: no ratios")
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


@dataclass(frozen=True)
class Bar:
    """A goal, what was measured, and whether that is enough. `met` is None when it was not measured."""

    goal: str
    measured: str
    met: bool | None


def worst(goal: str, shares: list[tuple[float, Cell]], bar: float, form: str = ".0%") -> Bar:
    """Every cell must reach `bar`; the one that is furthest from it is named, its share written as `form` says."""
    if not shares:
        return Bar(goal, "not measured", None)
    share, cell = min(shares, key=lambda pair: pair[0])
    met = sum(value >= bar for value, _ in shares)
    where = f"lowest {share:{form}} at {cell.name}, {cell.threads} thread{'s' * (cell.threads > 1)}"
    return Bar(goal, f"{met} of {len(shares)} cells; {where}", share >= bar)


def _against(goal: str, cells: Iterable[Cell], rival: str, largest_ratio: float) -> Bar:
    """Our time over a rival's, at every thread count, must be at most `largest_ratio`."""
    parts, met = [], []
    for cell in cells:
        ours, theirs = cell.seconds(cell.ours), cell.seconds(rival)
        if ours and theirs:
            parts.append(f"{ours * 1e6:.1f} / {theirs * 1e6:.1f} µs at {cell.threads}")
            met.append(ours <= largest_ratio * theirs)
    return Bar(goal, ", ".join(parts) + " threads" if parts else "not measured", all(met) if met else None)


def tabled(cells: Iterable[Cell]) -> list[Cell]:
    """The cells of the shape table: all but the smallest layer, which only shows what a call costs."""
    return [cell for cell in cells if cell.name != "1x64x64"]


def linear_bars(results: Results) -> list[Bar]:
    """The goals for one linear layer, against this file."""
    table = tabled(results.cells)
    wide = [cell for cell in table if cell.task["m"] >= 64 and cell.task["k"] >= 768]
    cold = [cell for cell in table if cell.task["cold"]]
    peaks = [(share, cell) for cell in wide if (share := cell.peak_share()) is not None]
    reads = [(share, cell) for cell in cold if (share := cell.bandwidth_share()) is not None]
    ahead = [(ratio, cell) for cell in table if (ratio := cell.ahead()) is not None]
    warm = [cell for cell in table if cell.name == "1x2048x8192"]
    smallest = [cell for cell in results.cells if cell.name == "1x64x64"]
    mean = geometric_mean([ratio for ratio, _ in ahead]) if ahead else None
    return [
        worst("M ≥ 64, K ≥ 768: at least 85 % of the measured int8 peak", peaks, 0.85),
        worst("M = 1, weights in memory: at least 90 % of the measured read bandwidth", reads, 0.9),
        _against("M = 1, 2048x8192 in cache: faster than quantize_dynamic (x86)", warm, "torch-int8-x86", 1.0),
        worst("Every cell at least as fast as its best rival", ahead, 1.0),
        Bar(
            "Geometric mean at least 1.2 times ahead of the best rival per cell",
            f"{mean:.2f} times" if mean else "not measured",
            mean >= 1.2 if mean else None,
        ),
        _against("A 64x64 layer at M = 1: at most 1.3 times nn.Linear", smallest, "torch-fp32", 1.3),
    ]


def int4_bars(results: Results) -> list[Bar]:
    """The goals for one linear layer with int4 weights, against this file. `edgekern` is its int8 here."""
    table = tabled(results.cells)
    cold = [cell for cell in table if cell.task["cold"]]
    faster = [
        (int8 / int4, cell) for cell in cold if (int8 := cell.seconds(OURS)) and (int4 := cell.seconds(OURS_INT4))
    ]
    reads = [(share, cell) for cell in cold if (share := cell.bandwidth_share()) is not None]
    ahead = [(ratio, cell) for cell in table if (ratio := cell.ahead()) is not None]
    warm = [cell for cell in table if cell.name == "1x2048x8192"]
    many = [cell for cell in table if cell.name == "128x768x3072"]
    return [
        worst("M = 1, weights in memory: at least 1.8 times faster than our int8", faster, 1.8, ".2f"),
        worst("M = 1, weights in memory: at least 90 % of the measured read bandwidth", reads, 0.9),
        _against("M = 1, 2048x8192 in cache: faster than ONNX Runtime int4", warm, "onnxruntime-int4", 1.0),
        _against("M = 1, 2048x8192 in cache: faster than OpenVINO int4", warm, "openvino-int4", 1.0),
        _against("128x768x3072: at most 1.15 times our int8's time", many, OURS, 1.15),
        worst("Every cell at least as fast as its best rival", ahead, 1.0),
    ]


# (batch, at least so many times faster than quantize_dynamic, than float32), on two threads
MODEL_GOALS = ((1, 1.1, 3.2), (32, 1.35, 3.4))


def model_bars(results: Results) -> list[Bar]:
    """The goals for MiniLM, against this file."""
    bars = []
    for batch, *goals in MODEL_GOALS:
        cell = next((c for c in results.cells if c.task["batch"] == batch and c.threads == 2), None)
        for rival, title, goal in zip(
            ("torch-int8-x86", "torch-fp32"), ("quantize_dynamic", "float32"), goals, strict=True
        ):
            ours, theirs = (cell.seconds(OURS), cell.seconds(rival)) if cell else (None, None)
            ratio = theirs / ours if ours and theirs else None
            bars.append(
                Bar(
                    f"Batch {batch}, 2 threads: at least {goal} times faster than {title}",
                    f"{ratio:.2f} times" if ratio else "not measured",
                    ratio >= goal if ratio else None,
                )
            )
    return bars
