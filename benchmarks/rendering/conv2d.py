"""Single convolutions: everybody's time, ratios by kind of layer, and the share of the machine's int8 peak."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from rendering.bars import geometric_mean
from rendering.charts import label
from rendering.cnn import COMPARED, TITLES
from rendering.pages import (
    MISSING,
    best_rival,
    facts,
    is_ours,
    joules_table,
    marked,
    microseconds,
    percent,
    plural,
    ratio,
    table,
)
from rendering.results import Cell, Results

OURS = "edgekern-static-nhwc"  # what the static rivals are compared with, layer by layer
PRUNED = "edgekern-pruned"  # which does less

EXPLANATION = (
    "One image, float32 in and out, µs. Layers are called kernel, channels in and out, height and width of the input, "
    "and stride where it is not 1; behind some stands how often the network has them. The fastest rival is in italics, "
    "the fastest of all in bold. edgekern finds the range of the image in every call, 'static' beforehand, as the "
    "static rivals do. 'Ahead' is the fastest rival's time over that of edgekern's static layer on images in "
    "channels_last, and 'of peak' its share of the int8 multiply-adds that the machine does from registers. 'Pruned' "
    "is how many times faster that layer is with 80 % of its weights pruned, in blocks of 4x4, and in which form: the "
    "one that was measured to be fastest, and where that is the dense one, zeros are multiplied. The last row is the "
    "sum of all layers, as often as the network has them."
)


def ahead(cell: Cell) -> float | None:
    """The fastest rival's time over ours; None where either was not measured."""
    rival, ours = best_rival(cell), cell.seconds(OURS)
    theirs = cell.seconds(rival) if rival else None
    return theirs / ours if ours and theirs else None


def peak_share(cell: Cell) -> float | None:
    """Of the machine's int8 multiply-adds a second."""
    ours, rate = cell.seconds(OURS), cell.limit_rate("peak-int8")
    return cell.task["macs"] / ours / rate if ours and rate else None


def _gain(cell: Cell) -> str:
    """What pruning brings, and in which form."""
    dense, pruned = cell.seconds(OURS), cell.seconds(PRUNED)
    if not dense or not pruned or cell.task["layer"] == "depthwise":  # which is not pruned
        return MISSING
    form = cell.timings[PRUNED]["form"]
    return "dense" if form == "dense" else f"{ratio(dense / pruned)}, {form}"


def _row(cell: Cell, subjects: Sequence[str]) -> list[str]:
    alike = dataclasses.replace(cell, timings={name: cell.timings[name] for name in subjects if name in cell.timings})
    times = [
        marked(alike, name, microseconds(cell.seconds(name))) if name in alike.timings else MISSING for name in subjects
    ]
    count = f", {cell.task['count']} times" if cell.task["count"] > 1 else ""
    return [
        cell.name + count,
        f"{cell.task['macs'] / 1e6:.1f}",
        *times,
        ratio(ahead(cell)),
        percent(peak_share(cell)),
        _gain(cell),
    ]


def _sums(cells: Iterable[Cell], subjects: Sequence[str]) -> list[str]:
    """The row of all layers; of subjects that miss one there is no sum."""
    cells = list(cells)
    counts = [cell.task["count"] for cell in cells]
    row = ["all", f"{sum(c * cell.task['macs'] for c, cell in zip(counts, cells, strict=True)) / 1e6:.1f}"]
    for name in subjects:
        seconds = [cell.seconds(name) for cell in cells]
        whole = all(second is not None for second in seconds)
        row.append(microseconds(sum(c * s for c, s in zip(counts, seconds, strict=True))) if whole else MISSING)
    return [*row, "", "", ""]


def _kinds_table(results: Results) -> str:
    """Geometric means of each rival's time over ours, by kind of layer."""
    rivals = [name for name in results.subjects() if not is_ours(name)]
    counts = sorted({cell.threads for cell in results.cells})
    rows = []
    for kind in dict.fromkeys(cell.task["layer"] for cell in results.cells):
        for ours in (name for name in COMPARED if name in results.subjects()):
            row = [f"{kind}, {label(ours)}"]
            for rival in rivals:
                for threads in counts:
                    cells = [c for c in results.cells if (c.task["layer"], c.threads) == (kind, threads)]
                    ratios = [t / o for c in cells if (t := c.seconds(rival)) and (o := c.seconds(ours))]
                    row.append(ratio(geometric_mean(ratios) if ratios else None))
            rows.append(row)
    columns = [f"{label(rival)}, {plural(threads)}" for rival in rivals for threads in counts]
    return table(["each rival's time over ours", *columns], rows) if rivals else ""


def conv2d_section(results: Results) -> str:
    """One machine's single layers."""
    subjects = [name for name in results.subjects() if name != PRUNED]
    parts = [f"### Single layers: {results.title}", facts(results), _kinds_table(results), EXPLANATION]
    header = ["", "million multiply-adds", *map(label, subjects), "ahead", "of peak", "pruned"]
    for network in dict.fromkeys(cell.task["network"] for cell in results.cells):
        for threads in sorted({cell.threads for cell in results.cells}):
            cells = [c for c in results.cells if (c.task["network"], c.threads) == (network, threads)]
            rows = [*(_row(cell, subjects) for cell in cells), _sums(cells, subjects)]
            parts += [
                f"#### {TITLES[network]}, {plural(threads)}, µs",
                table(header, rows),
                joules_table(cells),
            ]
    return "\n\n".join(part for part in parts if part)
