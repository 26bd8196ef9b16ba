"""Renders what benchmarks/prune*.py measured into docs/pruning.md: no number is typed by hand.

python scripts/render_prune.py           rewrite docs/pruning.md and the chart in it
python scripts/render_prune.py --check   exit with 1 when docs/pruning.md is not what the results say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from page_marks import replace, settle

ROOT = Path(__file__).resolve().parent.parent
SPEED, LOSS = 2.0, 0.02  # the goal: linears this far ahead of dense int8, at most this much lost on the sentiment probe


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


def frontier(result: dict[str, Any]) -> str:
    """Scores and times of a pruned encoder as a Markdown table, and which rows reach the goal."""
    rows = {row["name"]: row for row in result["rows"]}
    machine, int8, tasks = result["machine"], rows["int8"], list(rows["int8"]["scores"])
    threads = list(int8["times"])
    trained = dict.fromkeys((row["pattern"], row["steps"]) for row in result["rows"] if "steps" in row)
    steps = " and ".join(f"{count} ({pattern})" for pattern, count in trained)
    about = (
        f"{result['model']}, {result['batch']} texts of {result['tokens']} tokens; pruned ones in int8, after {steps} "
        f"training steps at each level. Milliseconds, the fastest of {result['rounds']} turns, and how far ahead of "
        f"dense int8. torch {machine['versions']['torch']}, {machine['cpu']}, {machine['isa']}, commit "
        f"{machine['commit']}. Others used the {machine['cores']} cores too: a load of {machine['load']} at the start."
    )
    timed = [f"{what}, {count} thread{'s' * (count != '1')}" for count in threads for what in ("linears", "whole")]
    lines = [about, "", "| " + " | ".join(["model", *tasks, *timed, "MB"]) + " |"]
    lines.append("| --- |" + " ---: |" * (len(tasks) + len(timed) + 1))
    for row in result["rows"]:
        name = f"{row['pattern']}, {row['sparsity']:.0%}" if "pattern" in row else f"dense {row['name']}"
        cells = [name, *(f"{row['scores'][task]:.3f}" for task in tasks)]
        for count in threads:
            cells += [_time(row["times"][count][what], int8["times"][count][what]) for what in ("linears", "whole")]
        lines.append("| " + " | ".join([*cells, f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else ""]) + " |")
    return "\n".join([*lines, "", _verdict(rows)])


def _time(taken: float, int8: float) -> str:
    return f"{taken:.0f} ({int8 / taken:.2f}x)"


def _verdict(rows: dict[str, Any]) -> str:
    """Which pruned models reach the goal, and how far the best of each pattern at 80 % is from it."""
    dense, times = rows["float32"]["scores"]["sentiment"], rows["int8"]["times"]
    pruned = [row for row in rows.values() if "pattern" in row]

    def gains(row: dict[str, Any]) -> dict[str, float]:
        return {count: times[count]["linears"] / row["times"][count]["linears"] for count in times}

    def lost(row: dict[str, Any]) -> float:
        return dense - row["scores"]["sentiment"]

    reached = [row for row in pruned if min(gains(row).values()) >= SPEED and lost(row) <= LOSS]
    names = ", ".join(f"{row['pattern']} at {row['sparsity']:.0%}" for row in reached) or "none of them"
    text = [
        f"Goal: linears {SPEED:g}x ahead of dense int8, at most {100 * LOSS:g} points lost on the sentiment probe. "
        f"Reached by {names}."
    ]
    for row in pruned:
        if row["sparsity"] == max(other["sparsity"] for other in pruned):
            ahead = " and ".join(f"{gain:.2f}x ({count} threads)" for count, gain in gains(row).items())
            text.append(
                f"{row['pattern']} at {row['sparsity']:.0%}: {ahead.replace('1 threads', '1 thread')}, "
                f"{100 * lost(row):.1f} points lost."
            )
    return " ".join(text)


def perplexities(quality: dict[str, Any], model: str) -> str:
    """What pruning costs a language model, as a Markdown table, and what the models write."""
    machine, (count, tokens), (texts, length) = quality["machine"], quality["text"], quality["calibration"]
    about = (
        f"{model}: perplexity on {count} windows of {tokens} tokens. Pruned once, calibrated on {texts} windows of "
        f"{length} tokens, no training after it. torch {machine['versions']['torch']}, {machine['cpu']}, commit "
        f"{machine['commit']}."
    )
    lines = [
        about,
        "",
        "| pattern | method | zero | perplexity, float32 | int8 |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    rows = [row for row in quality["rows"] if "int8" in row]  # others are not scored yet
    for row in rows:
        scores = [f"{row[dtype]:.2f}" if dtype in row else "not measured" for dtype in ("float32", "int8")]
        lines.append("| " + " | ".join([row["pattern"], row["method"], f"{row['zeros']:.1%}", *scores]) + " |")
    lines += ["", f'What they answer in int8 to "{quality["prompt"]}", cut off after a number of tokens:', ""]
    for row in rows:
        name = f"{row['pattern']}, {row['method']}" if row["method"] else row["pattern"]
        lines.append(f"- {name}: {' '.join(row['answer'].split())}")
    return "\n".join(lines)


def decoding(speed: dict[str, Any], model: str) -> str:
    """How fast a language model writes in each form, as a Markdown table."""
    first = next(iter(speed.values()))
    machine, names = first["machine"], [row["name"] for row in first["rows"]]
    rows = {threads: {row["name"]: row for row in part["rows"]} for threads, part in speed.items()}
    loads = " and ".join(f"{part['machine']['load']}" for part in speed.values())
    about = (
        f"{model}: tokens a second, one at a time after a prompt of {first['prompt']}, the median of {first['rounds']} "
        f"turns of {first['tokens']} tokens, all models in turns; and how far ahead of dense int8. Half of the decoder "
        f"pruned by {first['pruned_by']}. MB are those of the linear layers' weights. "
        f"torch {machine['versions']['torch']}, {machine['cpu']}, {machine['isa']}, commit {machine['commit']}; a load "
        f"of {loads} at the start."
    )
    heads = [f"{threads} thread{'s' * (threads != '1')}" for threads in rows]
    lines = [about, "", "| model | MB | " + " | ".join(heads) + " | layers packed as |"]
    lines.append("| --- | ---: |" + " ---: |" * len(rows) + " --- |")
    for name in names:
        cells = [name, f"{next(iter(rows.values()))[name]['bytes'] / 1e6:.1f}"]
        for part in rows.values():
            rate = part[name]["tokens_per_second"]
            cells.append(f"{rate:.1f} ({rate / part['int8']['tokens_per_second']:.2f}x)")
        chosen = [", ".join(f"{n} {form}" for form, n in part[name]["forms"].items()) for part in rows.values()]
        lines.append("| " + " | ".join([*cells, "; ".join(dict.fromkeys(chosen))]) + " |")
    return "\n".join(lines)


def main() -> int:
    path, results = ROOT / "docs/pruning.md", ROOT / "benchmarks/results"
    page = path.read_text()
    minilm = json.loads((results / "prune-minilm-80.json").read_text())
    rendered = replace(page, "prune", table(json.loads((results / "prune-minilm.json").read_text())))
    rendered = replace(rendered, "prune-minilm", frontier(minilm))
    smollm2 = json.loads((results / "prune-smollm2.json").read_text())
    rendered = replace(rendered, "prune-smollm2", perplexities(smollm2["quality"], smollm2["model"]))
    rendered = replace(rendered, "prune-smollm2-speed", decoding(smollm2["speed"], smollm2["model"]))
    code = settle(path, rendered)
    if "--check" in sys.argv[1:]:
        return code
    from prune_chart import draw  # not for --check, which needs no matplotlib

    draw(minilm, "1", SPEED, LOSS, ROOT / "docs/img/prune-minilm.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
