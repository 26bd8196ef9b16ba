"""Renders what the examples on Fashion-MNIST measured into docs: no number is typed by hand.

python scripts/render_fashion.py           rewrite the pages
python scripts/render_fashion.py --check   exit with 1 when a page is not what the results say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from page_marks import replace, settle

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
STUDENTS = {
    "alone": "alone, by labels",
    "distilled": "distilled",
    "pruned": "distilled, 80 % zeros",
    "int8": "distilled, 80 % zeros, int8",
}
NETWORKS = {"dense": "dense", "pruned": "80 % zeros", "int8": "80 % zeros, int8"}


def distilled(result: dict[str, Any]) -> str:
    """Accuracies of the students, and how much faster than its teacher the last one is."""
    effort, rows, counts = result["effort"], result["rows"], result["multiplications"]
    gains = [row["distilled"] - row["alone"] for row in rows]
    millions, fewer = counts["teacher"] / 1e6, counts["teacher"] / counts["student"]
    lines = [
        f"The teacher has {millions:.1f} million multiplications and is right on {result['teacher']:.2f} % of "
        f"{effort['tested']:,} test images, after {effort['teacher']} epochs of {effort['taught_with']:,}. The "
        f"students have {fewer:.1f} times fewer, and {effort['images']:,} images to learn from in "
        f"{effort['student']} epochs, with their labels alone or with the teacher's answers too. Pruning takes "
        f"{effort['pruned']} more, taught. Percent of the test images that they are right on:",
        "",
        *_scores(rows, STUDENTS),
        "",
        f"The one that is taught is {sum(gains) / len(gains):.2f} points above the one that is not, in the "
        f"worst of {len(rows)} seeds {min(gains):.2f}.",
        "",
        "| ms a call | teacher, float32 | its norms folded in | student, int8 | faster than the teacher |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for size, times in result["milliseconds"].items():
        dense, folded, small = (times[name] for name in ("teacher", "teacher, norms folded", "student, int8"))
        lines.append(
            f"| {size} | {dense:.3f} | {folded:.3f} | {small:.3f} | {dense / small:.2f} times ({folded / small:.2f}) |"
        )
    return "\n".join([*lines, "", f"{_measured(result)} Behind the last column in brackets: against folded norms."])


def pruned(result: dict[str, Any]) -> str:
    """Accuracies of a network before and after pruning, and how fast it is."""
    effort, rows, dense = result["effort"], result["rows"], result["dense"]
    scores = [{"seed": row["seed"], "dense": dense["float32"], **row} for row in rows]
    losses = [dense["float32"] - row["int8"] for row in rows]
    lines = [
        f"A network of {result['multiplications'] / 1e6:.1f} million multiplications learns from {effort['images']:,} "
        f"images of Fashion-MNIST for {effort['dense']} epochs; in int8 it is right on {dense['int8']:.2f} % of "
        f"{effort['tested']:,} test images. In {effort['pruned']} epochs more it is pruned: at last "
        f"{min(row['zeros'] for row in rows):.1%} of its weights are zero, in blocks of {result['pattern']}; those of "
        "the first layer stay. Percent that it is right on, for several orders of the images while it is pruned:",
        "",
        *_scores(scores, NETWORKS),
        "",
        f"Pruned and in int8 it loses {sum(losses) / len(losses):.2f} points against dense float32, in the worst of "
        f"{len(rows)} seeds {max(losses):.2f}. Of its layers in their order `convert_` packed: "
        f"{', '.join(f'`{form}`' for form in result['forms'])}.",
        "",
        "| ms a call | float32 | norms folded in | int8 | 80 % zeros, int8 | faster than float32 | than int8 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size, times in result["milliseconds"].items():
        plain, folded, int8, zeros = (
            times[name] for name in ("float32", "float32, norms folded", "int8", "pruned, int8")
        )
        lines.append(
            f"| {size} | {plain:.3f} | {folded:.3f} | {int8:.3f} | {zeros:.3f} | {plain / zeros:.2f} times "
            f"({folded / zeros:.2f}) | {int8 / zeros:.2f} times |"
        )
    return "\n".join([*lines, "", f"{_measured(result)} In brackets: against folded norms."])


def _scores(rows: list[dict[str, Any]], names: dict[str, str]) -> list[str]:
    """A table of each seed's scores and their means, by how they are called; compared with the first."""
    seeds = " | ".join(f"seed {row['seed']}" for row in rows)
    lines = [f"| | {seeds} | mean | against {next(iter(names))} |", f"| --- |{' ---: |' * len(rows)} ---: | ---: |"]
    means = {name: sum(row[name] for row in rows) / len(rows) for name in names}
    first = next(iter(means.values()))
    for i, (name, said) in enumerate(names.items()):
        cells = " | ".join(f"{row[name]:.2f}" for row in rows)
        lines.append(f"| {said} | {cells} | {means[name]:.2f} | {f'{means[name] - first:+.2f}' if i else ''} |")
    return lines


def _measured(result: dict[str, Any]) -> str:
    """On what, and when."""
    machine = result["machine"]
    threads = f"{result['threads']} thread{'s' * (result['threads'] != 1)}"
    return (
        f"{threads}, {machine['cpu']}, {machine['isa']}, torch {machine['versions']['torch']}, {result['date']}, "
        f"commit {machine['commit']}; timed in turns, at a load of {machine['load']} on {machine['cores']} cores."
    )


PAGES = {"distill-fashion": ("docs/distillation.md", distilled), "prune-fashion": ("docs/convolutions.md", pruned)}


def main() -> int:
    """Writes or checks the pages for which there are results."""
    codes = []
    for name, (page, table) in PAGES.items():
        path = RESULTS / f"{name}.json"
        if path.exists():  # else the page says that there are none
            text = table(json.loads(path.read_text()))
            codes.append(settle(ROOT / page, replace((ROOT / page).read_text(), name, text)))
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
