"""Renders what benchmarks/prune.py measured into docs/pruning.md, so that no number there is typed by hand.

python scripts/render_prune.py           rewrite docs/pruning.md
python scripts/render_prune.py --check   exit with 1 when docs/pruning.md is not what the results say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- results:prune:start -->\n", "<!-- results:prune:end -->"


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table, with a line above it on what was measured."""
    tasks = list(result["dense"])
    machine, data = result["machine"], result["calibration"]
    about = (
        f"{result['model']}, {result['layers']} layers pruned once, no training after it; calibrated on "
        f"{data['texts']} texts of at most {data['tokens']} tokens. torch {machine['versions']['torch']}, "
        f"{machine['cpu']}, commit {machine['commit']}."
    )
    lines = [about, "", "| " + " | ".join(["pattern", "method", "scope", "zero", *tasks]) + " |"]
    lines.append("| --- | --- | --- | ---: |" + " ---: |" * len(tasks))
    rows = [("dense", "", "", 0.0, result["dense"])]
    for row in result["rows"]:
        config = row["config"]
        rows.append((config["pattern"], config["method"], config["scope"], row["sparsity"], row["scores"]))
    for pattern, method, scope, sparsity, scores in rows:
        cells = [pattern, method, scope, f"{sparsity:.1%}", *(f"{scores[task]:.4f}" for task in tasks)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    path = ROOT / "docs/pruning.md"
    page = path.read_text()
    result = json.loads((ROOT / "benchmarks/results/prune-minilm.json").read_text())
    before, rest = page.split(START)
    _, after = rest.split(END)
    rendered = f"{before}{START}{table(result)}\n{END}{after}"
    if "--check" in sys.argv[1:]:
        if rendered != page:
            print("docs/pruning.md does not show the committed results; run scripts/render_prune.py", file=sys.stderr)
            return 1
        return 0
    path.write_text(rendered)
    return 0


if __name__ == "__main__":
    sys.exit(main())
