"""Renders what fewer bits were measured to cost into docs/allocate.md and docs/qat.md: no number is typed by hand.

python scripts/render_bits.py           rewrite the pages
python scripts/render_bits.py --check   exit with 1 when a page is not what the results say
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from page_marks import replace

ROOT = Path(__file__).resolve().parent.parent
Result = dict[str, Any]


def on(machine: Result) -> str:
    """What was measured on."""
    torch = machine["versions"]["torch"]
    return f"torch {torch}, {machine['cpu']}, {machine['isa']}, commit {machine['commit']}"


def lines(*rows: list[str]) -> list[str]:
    """Rows of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in rows]


def allocated(result: Result) -> str:
    """Perplexity by bits a weight, the same for all layers or each its own."""
    (count, tokens), (texts, length), scan = result["text"], result["calibration"], result["scan"]
    about = (
        f"{result['model']}: perplexity on {count} windows of {tokens} tokens, {result['float32']:.2f} in float32. "
        f"Each of {scan['layers']} layers was scanned with four schemes on {texts} windows of {length} tokens, "
        f"{scan['metric']}, in {scan['seconds']} s. The output head stays in floats, and is not counted. "
        f"{on(result['machine'])}; others used the {result['machine']['cores']} cores too."
    )
    header = ["schemes", "bits a weight", "MB", "predicted loss", "perplexity", "more than float32", "layers in each"]
    rows = []
    for row in result["rows"]:
        more = f"{row['perplexity'] / result['float32'] - 1:+.1%}"
        shares = ", ".join(f"{number} {scheme}" for scheme, number in row["layers"].items())
        name = f"`{row['name']}` for all" if len(row["layers"]) == 1 else f"within {row['name']}"
        each = "" if len(row["layers"]) == 1 else shares
        numbers = [
            f"{row['bits']:.2f}",
            f"{row['megabytes']:.1f}",
            f"{row['predicted']:.3f}",
            f"{row['perplexity']:.2f}",
        ]
        rows.append([name, *numbers, more, each])
    return "\n".join([about, "", *lines(header, ["---", "---:", "---:", "---:", "---:", "---:", "---"], *rows)])


def trained(result: Result) -> str:
    """How far from the floats an encoder is, and what it scores, rounded to the nearest and trained."""
    about = (
        f"MiniLM-L6, its encoder's linear layers in symmetric int4, groups of {result['group_size']}. Trained for "
        f"{result['steps']} steps of 8 texts against the floats. {on(result['machine'])}; "
        f"others used the {result['machine']['cores']} cores too. Distances are on texts that were not trained on."
    )
    tasks = [name for name in result["rows"][0] if name not in ("name", "distance")]
    rows = [[row["name"], f"{row['distance']:.4f}", *(f"{row[name]:.3f}" for name in tasks)] for row in result["rows"]]
    header = ["weights", "distance from float32", *tasks]
    floats, nearest, better = (row["distance"] for row in result["rows"])
    note = f"Of the distance that rounding makes, training takes back {1 - (better - floats) / (nearest - floats):.0%}."
    return "\n".join([about, "", *lines(header, ["---", *["---:"] * (1 + len(tasks))], *rows), "", note])


PAGES: list[tuple[str, str, Callable[[Result], str]]] = [
    ("docs/allocate.md", "allocate-smollm2", allocated),
    ("docs/qat.md", "qat-minilm", trained),
]


def main() -> int:
    stale = []
    for page, name, table in PAGES:
        path, results = ROOT / page, ROOT / f"benchmarks/results/{name}.json"
        if not results.exists():  # the page says so
            continue
        before = path.read_text()
        after = replace(before, name, table(json.loads(results.read_text())))
        if after != before:
            stale.append(page)
        if "--check" not in sys.argv[1:]:
            path.write_text(after)
    if stale and "--check" in sys.argv[1:]:
        print(f"{', '.join(stale)}: not what the committed results say; run scripts/render_bits.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
