"""Convolutional networks: everybody's time and answers, and where edgekern's time goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rivals.cnn_task import OTHER

from rendering.bars import geometric_mean
from rendering.charts import label
from rendering.pages import (
    MISSING,
    best_rival,
    facts,
    is_ours,
    joules_table,
    marked,
    milliseconds,
    percent,
    plural,
    table,
)
from rendering.results import Cell, Results, profile_of

TITLES = {
    "efficientnet-lite0": "EfficientNet-lite0",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "mobilenetv2": "MobileNetV2",
    "mobilenetv3": "MobileNetV3-Large",
}
COMPARED = (
    "edgekern-nhwc",
    "edgekern-static-nhwc",
    "edgekern-frozen",
    "edgekern-frozen-uint8",
)  # of edgekern's: with the rivals, and layer by layer

EXPLANATION = (
    "Milliseconds a call, medians. The fastest of edgekern's rivals is in italics, the fastest of all bold. edgekern "
    "finds the range of each image anew; 'static' finds those of all twenty beforehand, as the rivals' quantiser does. "
    "Same class: for how many of these images the likeliest class is float32's. The error is the distance of their "
    "logits from float32's, in proportion. The weights of all but EfficientNet are random, so that their classes "
    "are close calls."
)
LAYERS_EXPLANATION = (
    "By kind of layer. Each layer's time is the shortest of many calls, and 'other' is "
    "the least that a call took beyond its layers. 'Of peak' is the share of the int8 multiply-adds that the machine "
    "does from registers."
)

# A layer as results have it: kind, shape, macs.
Layers = Mapping[str, Mapping[str, Any]]


def layer_table(layers: Layers, seconds: Mapping[str, float], peak: float) -> str:
    """Every layer's time. `peak`: multiply-adds a second."""
    whole = sum(seconds.values())
    rows = []
    for name, layer in layers.items():
        own = seconds[name]
        share = percent(layer["macs"] / own / peak)
        rows.append([name, layer["kind"], layer["shape"], *_costs(layer["macs"], own, whole), share])
    for kind, (count, macs, own) in _by_kind(layers, seconds).items():
        share = percent(macs / own / peak) if macs else ""
        rows.append([f"all {count} {kind}" if count else kind, "", "", *_costs(macs, own, whole), share])
    return table(["layer", "kind", "in to out", "million multiply-adds", "ms", "of time", "of peak"], rows)


def _costs(macs: int, seconds: float, whole: float) -> list[str]:
    return [f"{macs / 1e6:.1f}" if macs else "", f"{seconds * 1e3:.3f}", percent(seconds / whole)]


def _by_kind(layers: Layers, seconds: Mapping[str, float]) -> dict[str, tuple[int, int, float]]:
    """(layers, multiply-adds, seconds) of each kind, the slowest first; "other" is none of the layers."""
    found: dict[str, tuple[int, int, float]] = {}
    for name, own in seconds.items():
        kind, macs = (layers[name]["kind"], layers[name]["macs"]) if name != OTHER else (OTHER, 0)
        count, sum_of_macs, sum_of_seconds = found.get(kind, (0, 0, 0.0))
        found[kind] = (count + (name != OTHER), sum_of_macs + macs, sum_of_seconds + own)
    return dict(sorted(found.items(), key=lambda item: -item[1][2]))


def _column(cell: Cell) -> str:
    return f"batch {cell.task['batch']}, {plural(cell.threads)}"


def _times_table(results: Results, cells: list[Cell]) -> str:
    rows = []
    for subject in results.subjects():
        records = [cell.timings[subject] for cell in cells if subject in cell.timings]
        if not records:
            continue
        worst = min(records, key=lambda record: record["agreeing"])
        times = [
            marked(cell, subject, milliseconds(cell.seconds(subject))) if subject in cell.timings else MISSING
            for cell in cells
        ]
        error = max(record["relative_error"] for record in records)
        rows.append([label(subject), *times, f"{worst['agreeing']} of {worst['images']}", f"{error:.1%}"])
    return table(["", *map(_column, cells), "same class", "error"], rows)


def _ahead(results: Results, cells: list[Cell], subject: str) -> str:
    """How much faster than each rival one of edgekern's is, as a sentence; empty without rivals."""
    parts = []
    cells = [cell for cell in cells if subject in cell.timings]
    for rival in (name for name in results.subjects() if not is_ours(name)):
        ratios = [theirs / cell.seconds(subject) for cell in cells if (theirs := cell.seconds(rival))]
        if ratios:
            parts.append(f"{geometric_mean(ratios):.2f} times as fast as {label(rival)}")
    if not parts:
        return ""
    first = sum(cell.seconds(subject) <= cell.seconds(rival) for cell in cells if (rival := best_rival(cell)))
    return (
        f"Geometric means over these columns, {label(subject)}: {', '.join(parts)}. "
        f"Ahead of all rivals in {first} of {len(cells)} columns."
    )


def _int8_layers(cells: list[Cell]) -> str:
    """A sentence when a layer was left in floats."""
    records = [record for cell in cells for record in cell.timings.values() if "layers" in record]
    floats = max((len(record["layers"]) - record["int8_layers"] for record in records), default=0)
    return f"edgekern left {floats} of the layers in floats." if floats else ""


def _profile_table(results: Results, network: str, subject: str) -> str:
    """Where one of edgekern's spends its time on one image, by kind, for each thread count."""
    found: dict[int, tuple[Cell, dict[str, tuple[int, int, float]]]] = {}
    for cell in results.cells:
        seconds = profile_of(results, subject, cell.name, cell.threads)
        if seconds and (cell.task["network"], cell.task["batch"]) == (network, 1):
            found[cell.threads] = (cell, _by_kind(cell.timings[subject]["layers"], seconds))
    if not found:
        return ""
    first = next(iter(found.values()))[1]
    rows = []
    for kind, (count, macs, _) in first.items():
        row = [kind, str(count) if count else "", f"{macs / 1e6:.1f}" if macs else ""]
        for cell, kinds in found.values():
            own, peak = kinds[kind][2], cell.limit_rate("peak-int8")
            row += [f"{own * 1e3:.2f}", percent(own / sum(kind[2] for kind in kinds.values()))]
            row.append(percent(macs / own / peak) if macs and peak else "")
        rows.append(row)
    columns = [text for count in found for text in (f"ms, {plural(count)}", "of time", "of peak")]
    return table([f"{TITLES[network]}, {label(subject)}", "layers", "million multiply-adds", *columns], rows)


def cnn_section(results: Results) -> str:
    """One machine's networks."""
    networks = list(dict.fromkeys(cell.task["network"] for cell in results.cells))
    parts = [f"### Whole networks: {results.title}", facts(results), EXPLANATION]
    for network in networks:
        cells = [cell for cell in results.cells if cell.task["network"] == network]
        parts += [f"#### {TITLES[network]}", _times_table(results, cells), _int8_layers(cells)]
        parts += [_ahead(results, cells, subject) for subject in COMPARED]
        parts.append(joules_table(cells))
    profiles = [_profile_table(results, network, subject) for network in networks for subject in COMPARED]
    if any(profiles):
        parts += ["#### Where the time goes, one image", LAYERS_EXPLANATION, *profiles]
    return "\n\n".join(part for part in parts if part)
