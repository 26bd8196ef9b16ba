"""Renders what benchmarks/quantize_memory.py measured into docs/language-models.md: no number is typed by hand.

python scripts/render_language_models.py           rewrite docs/language-models.md
python scripts/render_language_models.py --check   exit with 1 when docs/language-models.md is not what the results say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from page_marks import replace, settle

ROOT = Path(__file__).resolve().parent.parent


def gigabytes(size: float) -> str:
    """ "1.72 GB"."""
    return f"{size / 1e9:.2f} GB"


def megabytes(size: float) -> str:
    """ "90 MB"."""
    return f"{size / 1e6:,.0f} MB"


def memory(result: dict[str, Any]) -> str:
    """What converting and loading took, as a paragraph and a table."""
    machine, convert, load = result["machine"], result["convert"], result["load"]
    held = "A memory cgroup held both to" if result["held_by_kernel"] else "Neither may take more than"
    versions = machine["versions"]
    lines = [
        f"`edgekern quantize --scheme {result['scheme']}` on {result['layers']} layers of Llama-7B with its embedding "
        f"and head: {gigabytes(result['checkpoint_bytes'])} of bfloat16 in {result['files']} files, "
        f"{gigabytes(result['converted_bytes'])} when converted, and {megabytes(result['layer_bytes'])} for the "
        f"largest linear layer in bfloat16. {held} {gigabytes(result['limit_bytes'])} above what Python and the "
        f"libraries take ({megabytes(convert['libraries_bytes'])}): the converted model, one layer, and "
        f"{megabytes(result['allowance_bytes'])}. torch {versions['torch']}, transformers {versions['transformers']}, "
        f"{machine['cpu']}, {machine['threads']} threads, commit {machine['commit']}. Others used the machine too, at "
        f"a load of {machine['load']:.0f}.",
        "",
        "| | most at once | without pages of files |",
        "| --- | ---: | ---: |",
    ]
    for name, facts in (("convert and save", convert), ("load, and read 8 tokens", load)):
        cells = [name, gigabytes(facts["resident_bytes"]), gigabytes(facts["anonymous_bytes"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    path = ROOT / "docs/language-models.md"
    page = path.read_text()
    result = json.loads((ROOT / "benchmarks/results/quantize-memory.json").read_text())
    rendered = replace(page, "quantize-memory", memory(result))
    return settle(path, rendered)


if __name__ == "__main__":
    sys.exit(main())
