"""Renders what students of Fashion-MNIST learn into docs/distillation.md: no number is typed by hand.

python scripts/render_distill.py           rewrite the page
python scripts/render_distill.py --check   exit with 1 when the page is not what the results say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from page_marks import replace, settle

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULTS = ROOT / "docs/distillation.md", ROOT / "benchmarks/results/distill-fashion.json"
MODELS = {
    "alone": "alone, by labels",
    "distilled": "distilled",
    "pruned": "distilled, 80 % zeros",
    "int8": "distilled, 80 % zeros, int8",
}


def table(result: dict[str, Any]) -> str:
    """Accuracies of the students, and how much faster than its teacher the last one is."""
    effort, rows, counts = result["effort"], result["rows"], result["multiplications"]
    found = {name: [row[name] for row in rows] for name in MODELS}
    means = {name: sum(values) / len(values) for name, values in found.items()}
    gains = [row["distilled"] - row["alone"] for row in rows]
    millions, fewer = counts["teacher"] / 1e6, counts["teacher"] / counts["student"]
    lines = [
        f"The teacher has {millions:.1f} million multiplications and is right on {result['teacher']:.2f} % of "
        f"{effort['tested']:,} test images, after {effort['teacher']} epochs of {effort['taught_with']:,}. The "
        f"students have {fewer:.1f} times fewer, and {effort['images']:,} images to learn from in "
        f"{effort['student']} epochs, with their labels alone or with the teacher's answers too. Pruning takes "
        f"{effort['pruned']} more, taught. Means of {len(rows)} seeds.",
        "",
        "| student | % right | over seeds | against alone |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, said in MODELS.items():
        gain = "" if name == "alone" else f"{means[name] - means['alone']:+.2f}"
        lines.append(f"| {said} | {means[name]:.2f} | {min(found[name]):.2f} to {max(found[name]):.2f} | {gain} |")
    lines += [
        "",
        f"The one that is taught is {means['distilled'] - means['alone']:.2f} points above the one that is not, in the "
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
    machine = result["machine"]
    threads = f"{result['threads']} thread{'s' * (result['threads'] != 1)}"
    lines += [
        "",
        f"{threads}, {machine['cpu']}, {machine['isa']}, torch {machine['versions']['torch']}, {result['date']}, "
        f"commit {machine['commit']}; timed in turns, while others used the {machine['cores']} cores too (load "
        f"{machine['load']}). Behind the last column in brackets: against folded norms.",
    ]
    return "\n".join(lines)


def main() -> int:
    """Writes or checks the page, where there are results."""
    if not RESULTS.exists():  # the page says so
        return 0
    text = table(json.loads(RESULTS.read_text()))
    return settle(PAGE, replace(PAGE.read_text(), "distill-fashion", text))


if __name__ == "__main__":
    sys.exit(main())
