"""Renders what benchmarks/recipes.py measured into docs/compress.md.

python scripts/render_recipes.py           rewrite docs/compress.md
python scripts/render_recipes.py --check   exit with 1 when docs/compress.md is not what the results say
"""

from __future__ import annotations

import json
import sys
from typing import Any

from page_marks import ROOT, replace, settle

RESULTS = ROOT / "benchmarks/results"


def encoder(result: dict[str, Any]) -> str:
    """MiniLM with less of its layers or weights."""
    scores, times = result["scores"], result["milliseconds"]
    first = next(iter(scores))
    before = scores[first]
    texts, tokens = result["rows"]
    columns = [f"{texts} x {tokens} tokens, {count} thread{'s' * (count != '1')}, ms" for count in times]
    text = [
        f"`{result['recipe']}` on MiniLM-L6, with the paragraphs of 93 Wikipedia articles: {_duration(result)} What is "
        "kept of its scores is in brackets, and so is how much faster the others are.",
        "",
        "| | " + " | ".join([*before, *columns]) + " |",
        "| --- |" + " ---: |" * (len(before) + len(columns)),
    ]
    for name, found in scores.items():
        cells = [f"{score:.3f} ({score / before[task]:.0%})" for task, score in found.items()]
        for of in times.values():
            cells.append(f"{of[name]:.1f} ({of[first] / of[name]:.2f}x)" if name in of else "")
        text.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*text, "", _machine(result)])


def language_model(result: dict[str, Any]) -> str:
    """Half of a language model's weights."""
    scores, rates = result["perplexity"], result["tokens_per_second"]
    windows, tokens = result["text"]
    lost = scores["pruned"] - scores["float32"]
    columns = [f"tokens/s, {count} thread{'s' * (count != '1')}" for count in rates]
    text = [
        f"`{result['recipe']}` on SmolLM2-135M, with Wikipedia articles: {_duration(result)} Perplexity is that of "
        f"{windows} windows of {tokens:,} tokens of the first pages, which it does not learn from; beside it, how much "
        "is taken back of what pruning lost.",
        "",
        "| | perplexity | taken back | " + " | ".join(columns) + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(columns),
    ]
    for name in dict.fromkeys([*scores, *next(iter(rates.values()))]):
        cells = [f"{scores[name]:.2f}" if name in scores else ""]
        cells.append(f"{(scores['pruned'] - scores[name]) / lost:.0%}" if name.startswith("taught") else "")
        cells += [f"{of[name]:.1f}" if name in of else "" for of in rates.values()]
        text.append(f"| {name} | " + " | ".join(cells) + " |")
    text += ["", f'What they answer to "{result["prompt"]}", cut off after a number of tokens:', ""]
    text += [f"- {name}: {answer}" for name, answer in result["answers"].items()]
    return "\n".join([*text, "", _machine(result)])


def _duration(result: dict[str, Any]) -> str:
    stages = ", ".join(f"{name} {found['seconds']:,} s" for name, found in result["stages"].items())
    return f"{result['seconds'] / 60:.1f} minutes in all ({stages})."


def _machine(result: dict[str, Any]) -> str:
    facts, timed = result["machine"], result["timed_on"]
    return (
        f"{facts['cpu']}, {facts['isa']}, {facts['threads']} threads, torch {facts['versions']['torch']}, commit "
        f"{facts['commit']}, at a load of {facts['load']} when it began; timed at commit {timed['commit']}, at a load "
        f"of {timed['load']}."
    )


def main() -> int:
    shown = ROOT / "docs/compress.md"
    page = shown.read_text()
    for path in sorted(RESULTS.glob("recipe-*.json")):
        result = json.loads(path.read_text())
        page = replace(page, path.stem, (encoder if "scores" in result else language_model)(result))
    return settle(shown, page)


if __name__ == "__main__":
    sys.exit(main())
