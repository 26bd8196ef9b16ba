"""Renders what benchmarks/quantize_lm.py measured into docs/quantization.md: no number is typed by hand.

python scripts/render_quantize.py           rewrite docs/quantization.md
python scripts/render_quantize.py --check   exit with 1 when docs/quantization.md is not what the results say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from render_prune import replace

ROOT = Path(__file__).resolve().parent.parent


def table(result: dict[str, Any]) -> str:
    """What fewer bits cost, as a Markdown table, with a line above it on what was measured, and one below."""
    machine, (count, tokens), (texts, length) = result["machine"], result["text"], result["calibration"]
    loads = sorted(row["load"] for row in result["rows"])
    about = (
        f"{result['model']}: perplexity on {count} windows of {tokens} tokens, {count * tokens:,} in all. Calibrated "
        f"on {texts} windows of {length} tokens, no training after it. torch {machine['versions']['torch']}, "
        f"{machine['cpu']}, {machine['isa']}, commit {machine['commit']}. Others used the {machine['cores']} cores "
        f"too, at a load of {loads[0]:.0f} to {loads[-1]:.0f}: seconds are those of the processor, all cores added up."
    )
    lines = [about, "", "| weights | rounded | perplexity | more than float32 | error of a layer | seconds |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: |")
    dense = next(row["perplexity"] for row in result["rows"] if row["format"] == "float32")
    for row in result["rows"]:
        more = f"{row['perplexity'] / dense - 1:+.1%}" if row["method"] else ""
        error = f"{row['error_ratio']:.2f}" if "error_ratio" in row else ""
        seconds = str(row.get("cpu_seconds", ""))
        cells = [row["format"], row["method"], f"{row['perplexity']:.2f}", more, error, seconds]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", recovered(result["rows"], dense)])


def recovered(rows: list[dict[str, Any]], dense: float) -> str:
    """Of what rounding to nearest loses in int4, how much GPTQ takes back."""
    scores = {(row["format"], row["method"]): row["perplexity"] for row in rows}
    shares = []
    for (form, method), score in scores.items():
        if method.startswith("GPTQ") and form.startswith("int4"):
            nearest = scores[form, "nearest"]
            shares.append(f"{method} {(nearest - score) / (nearest - dense):.0%} in {form.removeprefix('int4, ')}")
    return f"Of what rounding int4 to the nearest adds is taken back: by {', by '.join(shares)}."


def main() -> int:
    path = ROOT / "docs/quantization.md"
    result = json.loads((ROOT / "benchmarks/results/quantize-smollm2.json").read_text())
    page = path.read_text()
    rendered = replace(page, "quantize-smollm2", table(result))
    if "--check" in sys.argv[1:]:
        if rendered != page:
            print(
                "docs/quantization.md does not show the committed results; run scripts/render_quantize.py",
                file=sys.stderr,
            )
            return 1
        return 0
    path.write_text(rendered)
    return 0


if __name__ == "__main__":
    sys.exit(main())
