"""Renders what benchmarks/quantize_lm.py and quantize_models.py measured into docs/quantization.md: no number is typed.

python scripts/render_quantize.py           rewrite docs/quantization.md
python scripts/render_quantize.py --check   exit with 1 when docs/quantization.md is not what the results say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from page_marks import replace, settle

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("smollm2", "minilm", "whisper", "efficientnet")
"""Those that may have been measured."""
PERCENT = " rate"
"""In the names of scores that are shares."""


def table(result: dict[str, Any]) -> str:
    """What fewer bits cost a language model, as a Markdown table, with a line above it on what was measured."""
    (count, tokens), (texts, length) = result["text"], result["calibration"]
    about = (
        f"{result['model']}: perplexity on {count} windows of {tokens} tokens, {count * tokens:,} in all. Calibrated "
        f"on {texts} windows of {length} tokens, or as many as a row says, no training after it. {machine(result)}"
    )
    lines = [
        about,
        "",
        "| weights | rounded | perplexity | more than float32 | taken back | error of a layer | seconds |",
    ]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    scores = {(row["format"], row["method"]): row["perplexity"] for row in result["rows"]}
    dense = scores["float32", ""]
    for row in result["rows"]:
        more = f"{row['perplexity'] / dense - 1:+.1%}" if row["method"] else ""
        back = taken_back(row["perplexity"], scores.get((row["format"], "nearest")), dense) if calibrated(row) else ""
        lines.append(line(row["format"], row["method"], f"{row['perplexity']:.2f}", more, back, *facts(row)))
    return "\n".join(lines)


def score_table(result: dict[str, Any]) -> str:
    """Likewise for a model that has several scores."""
    names = list(result["rows"][0]["scores"])
    about = f"{result['model']}; {result['scores']}. Calibrated on {result['calibration']}. {machine(result)}"
    lines = [about, "", line("weights", "rounded", *names, "error of a layer", "seconds")]
    lines.append(line("---", "---", *["---:"] * (len(names) + 2)))
    for row in result["rows"]:
        cells = [score_text(name, row["scores"][name]) for name in names]
        lines.append(line(row["format"], row["method"], *cells, *facts(row)))
    return "\n".join(lines)


def score_text(name: str, score: float) -> str:
    """A share in percent, a count as it is."""
    if PERCENT in name:
        return f"{score:.1%}"
    return str(score) if isinstance(score, int) else f"{score:.4f}"


def machine(result: dict[str, Any]) -> str:
    """On what, and how busy it was."""
    on, loads = result["machine"], sorted(row["load"] for row in result["rows"])
    return (
        f"torch {on['versions']['torch']}, {on['cpu']}, {on['isa']}, commit {on['commit']}. Others used the "
        f"{on['cores']} cores too, at a load of {loads[0]:.0f} to {loads[-1]:.0f}: seconds are those of the processor, "
        "all cores added up."
    )


def facts(row: dict[str, Any]) -> tuple[str, str]:
    """The error of a layer, and the seconds that calibration took."""
    return f"{row['error_ratio']:.2f}" if "error_ratio" in row else "", str(row.get("cpu_seconds", ""))


def calibrated(row: dict[str, Any]) -> bool:
    """Whether data were looked at."""
    return "error_ratio" in row


def taken_back(score: float, nearest: float | None, dense: float) -> str:
    """Of what rounding to nearest adds to the perplexity, what is gone again."""
    return "" if nearest is None else f"{(nearest - score) / (nearest - dense):.0%}"


def line(*cells: str) -> str:
    """One of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def main() -> int:
    path = ROOT / "docs/quantization.md"
    rendered = path.read_text()
    for name in MODELS:
        path_of_results = ROOT / f"benchmarks/results/quantize-{name}.json"
        if path_of_results.exists():
            result = json.loads(path_of_results.read_text())
            text = table(result) if name == "smollm2" else score_table(result)
            rendered = replace(rendered, f"quantize-{name}", text)
    return settle(path, rendered)


if __name__ == "__main__":
    sys.exit(main())
