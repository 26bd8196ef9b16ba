"""Renders the demo's results into README.md, between its markers, so that no number there is typed by hand.

python scripts/render_demo.py           rewrite README.md
python scripts/render_demo.py --check   exit with 1 when README.md is not what the results say
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgekern.report.demo import demo_markdown

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- results:demo:start -->", "<!-- results:demo:end -->"


def render(readme: str, results: Path) -> str:
    """`readme` with its demo block made anew from every demo-*.json in `results`.

    Raises:
        ValueError: the README has no such block, or there are no results.
    """
    files = sorted(results.glob("demo-*.json"))
    if not files:
        raise ValueError(f"no demo-*.json in {results}")
    if readme.count(START) != 1 or readme.count(END) != 1:
        raise ValueError(f"expected one {START} and one {END} in the README")
    tables = [demo_markdown(json.loads(file.read_text())) for file in files]
    before, rest = readme.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n" + "\n\n".join(tables) + f"\n{END}{after}"


def main() -> int:
    path = ROOT / "README.md"
    readme = path.read_text()
    rendered = render(readme, ROOT / "benchmarks/results")
    if "--check" in sys.argv[1:]:
        if rendered != readme:
            print("README.md does not show the committed demo results; run scripts/render_demo.py", file=sys.stderr)
            return 1
        return 0
    path.write_text(rendered)
    return 0


if __name__ == "__main__":
    sys.exit(main())
