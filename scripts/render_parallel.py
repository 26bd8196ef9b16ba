"""Renders what benchmarks/parallel.py, parallel_tensor.py and parallel_training.py measured into docs/parallel.md.

python scripts/render_parallel.py           rewrite docs/parallel.md and its chart
python scripts/render_parallel.py --check   exit with 1 when docs/parallel.md is not what the results say
"""

from __future__ import annotations

import json
import sys
from statistics import median
from typing import Any

from page_marks import ROOT, replace, settle
from parallel_chart import draw

from edgekern.report.energy import energy_note, joules_text

RESULTS = ROOT / "benchmarks/results"


def _machine(facts: dict[str, Any]) -> str:
    return f"{facts['cpu']}, {facts['isa']}, torch {facts['versions']['torch']}, commit {facts['commit']}"


def pipeline(result: dict[str, Any]) -> str:
    """One process on one core against two on two, over several networks."""
    networks = result["networks"]
    slow = [each for each in networks if "rate" in each]
    same = all(row["same_tokens"] for each in networks for row in each["rows"])
    text = [
        f"SmolLM2-135M in {result['scheme']}: one process on a core, and two by layers, each on a core of its own. "
        f"Prompts are read in {result['pieces']} pieces. Seconds, medians of {result['rounds']} rounds, in turns; in "
        f"brackets, how many times as fast as one process in the same rounds. "
        f"{'Tokens are the same each time.' if same else 'Not all tokens are the same.'}",
        "",
        f"| | reading {result['prompt']} tokens | {result['batch']} prompts of {result['prompt']} | "
        f"writing {result['written']} tokens after {result['prompt'] // 4} |",
        "| --- | ---: | ---: | ---: |",
    ]
    alone = [[time for each in networks for time in each["rows"][task]["seconds"]["one"]] for task in range(3)]
    text.append("| one process | " + " | ".join(f"{median(times):.3f}" for times in alone) + " |")
    for each in networks:
        cells = [f"{median(row['seconds']['two']):.3f} ({row['ahead']:.2f})" for row in each["rows"]]
        text.append(f"| two over {_called(each)} | " + " | ".join(cells) + " |")
    if slow:
        seen = (
            f"{1e3 * each['round_trip']:.2f} ms there and back and {each['measured_rate'] / 1e6:.0f} Mbit/s"
            for each in slow
        )
        share = max(each["link_share"] for each in slow)
        text += [
            "",
            "Networks are links between two namespaces of one machine, in which packets wait as long as they would on "
            f"a wire. Programs see {', '.join(seen)}. While ranks work, the link takes up to {share:.0%} of a core, "
            "which they then lack.",
        ]
    spent = [[row.get("joules") for row in each["rows"]] for each in networks]  # not in older files
    if any(found and any(found.values()) for rows in spent for found in rows):
        text += ["", f"{energy_note(result['energy'])}:", "", *text[2:4]]
        for each, rows in zip(networks, spent, strict=True):
            for name, said in (("one", "one process, in turns with"), ("two", "two over")):
                cells = [joules_text(found[name] if found else None) for found in rows]
                text.append(f"| {said} {_called(each)} | " + " | ".join(cells) + " |")
    return "\n".join([*text, "", f"{_machine(result['machine'])}."])


def _called(network: dict[str, Any]) -> str:
    if "rate" not in network:
        return "loopback"
    rate = f"{network['rate'] / 1e6:,.0f} Mbit/s"
    return f"{rate}, {1e3 * network['delay']:g} ms each way"


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


def training(result: dict[str, Any]) -> str:
    """What two ranks learn, and one, and what differs by noise alone."""
    effort, batch = result["effort"], result["batch"]
    rows = [row for group in result["norms"].values() for row in group]
    zeros = min(row["zeros"] for row in rows)
    text = [
        f"A student on Fashion-MNIST is distilled, and pruned to {zeros:.1%} zeros meanwhile, in {effort['pruned']} "
        f"epochs of {effort['images']:,} images and batches of {batch}: on one rank, and on two with {batch // 2} rows "
        "each. What noise does: one rank that takes each batch in two halves adds gradients up in another order (its "
        "batch norms then go by halves, which those of two ranks do not), and images may come in another order. "
        "Differences are those from one rank, in proportion: of single steps at the start, and of means over an epoch, "
        "at most.",
    ]
    for norms, group in result["norms"].items():
        text += [
            "",
            f"| {norms} | first {result['first']} steps | whole curve | loss of the last epoch | right, % | masks |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
        ]
        for row in group:
            away = [f"{row['first']:.1e}", f"{row['curve']:.1e}"] if row is not group[0] else ["", ""]
            cells = [row["name"], *away, f"{row['last']:.4f}", f"{row['accuracy']:.2f}", _agreement(row)]
            text.append("| " + " | ".join(cells) + " |")
    seconds = sum(row["seconds"] for row in rows)
    return "\n".join(
        [
            *text,
            "",
            "![Losses, and how far they are from those of one rank](img/parallel-training.png)",
            "",
            f"{_machine(result['machine'])}; {seconds:.0f} s of the processor, beside other programs (load "
            f"{result['machine']['load']}).",
        ]
    )


def _agreement(row: dict[str, Any]) -> str:
    if row["ranks"] == 1:
        return ""
    same = all(len(set(row[name])) == 1 for name in ("masks", "weights"))
    return f"and weights the same on {row['ranks']} ranks" if same else "DIFFER"


RENDERED = {"parallel-pipeline": pipeline, "parallel-tensor": tensor, "parallel-training": training}


def main() -> int:
    path = ROOT / "docs/parallel.md"
    page = path.read_text()
    for name, render in RENDERED.items():
        page = replace(page, name, render(json.loads((RESULTS / f"{name}.json").read_text())))
    if "--check" not in sys.argv[1:]:
        draw(json.loads((RESULTS / "parallel-training.json").read_text()), ROOT / "docs/img/parallel-training.png")
    return settle(path, page)


if __name__ == "__main__":
    sys.exit(main())
