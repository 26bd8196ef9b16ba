"""Renders what benchmarks/parallel.py and parallel_tensor.py measured into docs/parallel.md.

python scripts/render_parallel.py           rewrite docs/parallel.md
python scripts/render_parallel.py --check   exit with 1 when docs/parallel.md is not what the results say
"""

from __future__ import annotations

import json
import sys
from statistics import median
from typing import Any

from page_marks import ROOT, replace, settle

from edgekern.report.energy import energy_note, joules_text

RESULTS = ROOT / "benchmarks/results"


def _machine(facts: dict[str, Any]) -> str:
    return f"{facts['cpu']}, {facts['isa']}, torch {facts['versions']['torch']}, commit {facts['commit']}"


def pipeline(result: dict[str, Any]) -> str:
    """One process on one core against two on two."""
    tasks = {
        "one": f"reading {result['prompt']} tokens",
        "many": f"reading {result['batch']} prompts of {result['prompt']} tokens",
        "write": f"writing {result['written']} tokens after {result['prompt'] // 4}",
    }
    text = [
        f"SmolLM2-135M in {result['scheme']}: one process on a core, and two by layers, each on a core of its own, "
        f"over loopback. Prompts are read in {result['pieces']} pieces. "
        f"Medians of {result['rounds']} rounds, in turns.",
        "",
    ]
    measured = any(_joules(row, name) is not None for row in result["rows"] for name in ("one", "two"))
    columns = ["one process, s", "two, s", "times as fast", *(["one process, J", "two, J"] if measured else [])]
    text += [f"| | {' | '.join(columns)} | tokens |", f"| --- | {' | '.join(['---:'] * len(columns))} | --- |"]
    for row in result["rows"]:
        one, two = (median(row["seconds"][name]) for name in ("one", "two"))
        tokens = "the same" if row["same_tokens"] else "others"
        figures = [f"{one:.3f}", f"{two:.3f}", f"{row['ahead']:.2f}"]
        if measured:
            figures += [joules_text(_joules(row, name)) for name in ("one", "two")]
        text.append(f"| {tasks[row['task']]} | {' | '.join(figures)} | {tokens} |")
    below = [f"{_machine(result['machine'])}.", *([f"{energy_note(result['energy'])}."] if measured else [])]
    return "\n".join([*text, "", " ".join(below)])


def _joules(row: dict[str, Any], name: str) -> float | None:
    """Of a task; None where there was no sensor, and in older files."""
    return row.get("joules", {}).get(name)


def tensor(result: dict[str, Any]) -> str:
    """What two ranks say that divide each layer."""
    text = [
        f"SmolLM2-135M on {result['windows']} windows of {result['tokens']:,} tokens: its perplexity in one process, "
        "and divided within layers over two, which add up floats or int8. The error is the distance of the first "
        "window's logits from those of one process, in proportion.",
        "",
        "| | one process | floats are sent | error | int8 is sent | error |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        cells = [row["scheme"], f"{row['alone']:.4f}"]
        for sent in ("floats", "int8"):
            found = row["divided"][sent]
            change = found["perplexity"] / row["alone"] - 1
            cells += [f"{found['perplexity']:.4f} ({change:+.2%})", f"{found['error']:.1e}"]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join([*text, "", f"{_machine(result['machine'])}."])


def main() -> int:
    path = ROOT / "docs/parallel.md"
    page = path.read_text()
    times, says = RESULTS / "parallel-pipeline.json", RESULTS / "parallel-tensor.json"
    if times.exists():
        page = replace(page, times.stem, pipeline(json.loads(times.read_text())))
    if says.exists():
        page = replace(page, says.stem, tensor(json.loads(says.read_text())))
    return settle(path, page)


if __name__ == "__main__":
    sys.exit(main())
