"""Pruned layers: the project's goals for their speed, and a table for each mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from harness.subject import FLOAT_CHANNELS, INT4_FORMS

from rendering.bars import Bar, geometric_mean, worst
from rendering.charts import label
from rendering.pages import bars_table, facts, joules_table, microseconds, plural, ratio, table
from rendering.results import Cell, Results

DENSE = "edgekern-dense"
INT4_DENSE, *INT4_SPARSE = (f"edgekern-int4-{form}" for form in INT4_FORMS)
SPARSE = "edgekern sparse"  # the fastest form of a cell
INT4 = (INT4_DENSE, *INT4_SPARSE)
F32, F16 = (tuple(f"edgekern-{dtype}-{channels}" for channels in FLOAT_CHANNELS) for dtype in ("f32", "f16"))
DEEPSPARSE = ("deepsparse-fp32", "deepsparse-int8")
DEEPSPARSE_FAST = (*DEEPSPARSE, "deepsparse-int8-fast")  # with the sums that may saturate, where there are such

# How many times faster than our dense int8: with 64 rows and more, and with one row and cold weights.
DENSE_GOALS = {
    ("4x4", 0.8): 3.5,
    ("4x4", 0.9): 5.5,
    ("1x4", 0.8): 2.3,
    ("1x4", 0.9): 4.0,
    ("unstructured", 0.8): 1.35,
    ("unstructured", 0.9): 2.2,
}
COLD_GOALS = {0.5: 1.4, 0.7: 2.0, 0.8: 2.6, 0.9: 3.3}
DEEPSPARSE_MEAN = 1.3
# How many times faster float32 with zeros is than torch's dense float32, with 64 rows and more.
F32_GOALS = {0.8: 2.3, 0.9: 4.0}

# With one row and weights in memory: how many times faster than dense int8 the dense int4 form is, and the best other
# one than that, by sparsity.
INT4_GOAL, INT4_SPARSE_GOALS = 1.8, {0.7: 1.3}

EXPLANATION = (
    "edgekern's time is that of its fastest sparse int8 form in the cell, which is named beside it. The ratios are the "
    "times of its own dense int8 form, and of the fastest DeepSparse, over that. Float weights with zeros have columns "
    "of their own."
)


def _fastest(cell: Cell, subjects: Iterable[str]) -> tuple[float, str] | None:
    return min(((s, name) for name in subjects if (s := cell.seconds(name)) is not None), default=None)


def sparse_form(cell: Cell) -> tuple[float, str] | None:
    """Median seconds of our fastest sparse int8 form, and its name; None when there is none."""
    return _fastest(
        cell, [name for name in cell.timings if name.startswith("edgekern-") and name not in (DENSE, *INT4, *F32, *F16)]
    )


def ahead_of(cell: Cell, subjects: Iterable[str], f32: bool = False) -> float | None:
    """How many times faster our fastest sparse form, int8 unless `f32`, is than the fastest of `subjects`."""
    ours, theirs = _fastest(cell, F32) if f32 else sparse_form(cell), _fastest(cell, subjects)
    return theirs[0] / ours[0] if ours and theirs else None


def mask_name(pattern: str, sparsity: float) -> str:
    """ "4x4, 80 %"."""
    return f"{pattern}, {100 * sparsity:.0f} %"


def _ratios(cells: Iterable[Cell], subjects: Sequence[str], f32: bool = False) -> list[tuple[float, Cell]]:
    return [(found, cell) for cell in cells if (found := ahead_of(cell, subjects, f32)) is not None]


def sparse_bars(results: Results) -> list[Bar]:
    """The goals for one pruned layer, against this file."""
    bars = []
    for (pattern, sparsity), goal in DENSE_GOALS.items():
        cells = [c for c in results.cells if (c.task["pattern"], c.task["sparsity"]) == (pattern, sparsity)]
        ratios = _ratios((c for c in cells if c.task["m"] >= 64), [DENSE])
        bars.append(worst(f"{mask_name(pattern, sparsity)}, M ≥ 64: {goal} times our dense int8", ratios, goal, ".2f"))
    for sparsity, goal in COLD_GOALS.items():
        cells = [c for c in results.cells if c.task["cold"] and c.task["sparsity"] == sparsity]
        ratios = _ratios((c for c in cells if c.task["pattern"] == "unstructured"), [DENSE])
        name = mask_name("unstructured", sparsity)
        bars.append(worst(f"{name}, M = 1, weights in memory: {goal} times our dense int8", ratios, goal, ".2f"))
    for sparsity, goal in F32_GOALS.items():
        cells = [c for c in results.cells if (c.task["pattern"], c.task["sparsity"]) == ("unstructured", sparsity)]
        ratios = _ratios((c for c in cells if c.task["m"] >= 64), ["torch-fp32"], f32=True)
        name = mask_name("unstructured", sparsity)
        bars.append(worst(f"{name}, M ≥ 64, float32: {goal} times torch's dense float32", ratios, goal, ".2f"))
    for rivals, title in ((DEEPSPARSE, "DeepSparse"), (DEEPSPARSE_FAST, "DeepSparse with saturating sums")):
        ratios = _ratios(results.cells, rivals)
        mean = geometric_mean([found for found, _ in ratios]) if ratios else None
        bars.append(worst(f"Every cell at least as fast as {title}", ratios, 1.0, ".2f"))
        bars.append(
            Bar(
                f"Geometric mean at least {DEEPSPARSE_MEAN} times ahead of {title}",
                f"{mean:.2f} times" if mean else "not measured",
                mean >= DEEPSPARSE_MEAN if mean else None,
            )
        )
    return [*bars, *_int4_bars(results)]


def _row(cell: Cell, floats: Iterable[Sequence[str]], others: Sequence[str]) -> list[str]:
    seconds, form = sparse_form(cell) or (None, "")
    fastest = [_fastest(cell, subjects) or (None, "") for subjects in floats]
    shape = "x".join(str(cell.task[key]) for key in "mkn") + ", cold" * cell.task["cold"]
    return [
        f"{shape}, {plural(cell.threads)}",
        microseconds(seconds),
        form.removeprefix("edgekern-"),
        ratio(ahead_of(cell, [DENSE])),
        ratio(ahead_of(cell, DEEPSPARSE_FAST)),
        *(microseconds(found) for found, _ in fastest),
        *(microseconds(cell.seconds(name)) for name in (DENSE, *others)),
    ]


def _columns(cell: Cell, floats: Mapping[str, Sequence[str]], others: Sequence[str]) -> Cell:
    """The cell with the subjects of its row alone, the fastest of several by the name of their column."""
    fastest = {SPARSE: sparse_form(cell)} | {title: _fastest(cell, subjects) for title, subjects in floats.items()}
    timings = {title: cell.timings[found[1]] for title, found in fastest.items() if found}
    timings |= {name: cell.timings[name] for name in (DENSE, *others) if name in cell.timings}
    return dataclasses.replace(cell, timings=timings)


def _int4_bars(results: Results) -> list[Bar]:
    """The goals for int4, where the file has any."""
    cells = [cell for cell in results.cells if cell.seconds(INT4_DENSE) is not None]
    if not cells:
        return []
    where = "M = 1, weights in memory"
    bars = [
        worst(f"int4, {where}: {INT4_GOAL} times our dense int8", _faster(cells, [INT4_DENSE], DENSE), INT4_GOAL, ".2f")
    ]
    for sparsity, goal in INT4_SPARSE_GOALS.items():
        found = [c for c in cells if (c.task["pattern"], c.task["sparsity"]) == ("unstructured", sparsity)]
        name = f"int4, {mask_name('unstructured', sparsity)}, {where}: {goal} times our dense int4"
        bars.append(worst(name, _faster(found, INT4_SPARSE, INT4_DENSE), goal, ".2f"))
    return bars


def _faster(cells: Iterable[Cell], subjects: Sequence[str], than: str) -> list[tuple[float, Cell]]:
    found = ((_fastest(cell, subjects), _fastest(cell, [than]), cell) for cell in cells)
    return [(theirs[0] / ours[0], cell) for ours, theirs, cell in found if ours and theirs]


def sparse_section(results: Results, charts: Sequence[str]) -> str:
    """One machine's pruned layers: goals, and every cell, mask by mask."""
    measured = results.subjects()
    others = [name for name in INT4 if name in measured]
    others += [name for name in measured if not name.startswith("edgekern-")]
    parts = [f"## One pruned linear layer: {results.title}", facts(results), bars_table(sparse_bars(results))]
    parts += [f"![{results.title}](img/{name})" for name in charts]
    parts.append(EXPLANATION)
    header = [
        "M x K x N",
        SPARSE,
        "form",
        "dense int8 / sparse",
        "DeepSparse / sparse",
    ]
    floats = {"edgekern sparse float32": F32}
    if set(F16) & set(measured):
        floats["edgekern sparse float16"] = F16
    header += [*floats, *map(label, (DENSE, *others))]
    for mask in dict.fromkeys((cell.task["pattern"], cell.task["sparsity"]) for cell in results.cells):
        cells = [cell for cell in results.cells if (cell.task["pattern"], cell.task["sparsity"]) == mask]
        parts.append(f"### {mask_name(*mask)} zeros, µs")
        parts.append(table(header, [_row(cell, floats.values(), others) for cell in cells]))
        parts.append(joules_table([_columns(cell, floats, others) for cell in cells]))
    return "\n\n".join(part for part in parts if part)
