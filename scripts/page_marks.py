"""What the scripts that render results into pages share: the marked places, and whether a page is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def replace(page: str, name: str, text: str) -> str:
    """The page with this text between the markers of that name."""
    start, end = f"<!-- results:{name}:start -->\n", f"<!-- results:{name}:end -->"
    before, rest = page.split(start)
    _, after = rest.split(end)
    return f"{before}{start}{text}\n{end}{after}"


def settle(path: Path, rendered: str) -> int:
    """Writes a page, or with ``--check`` among the arguments only compares it; the exit code."""
    if "--check" not in sys.argv[1:]:
        path.write_text(rendered)
        return 0
    if rendered == path.read_text():
        return 0
    shown, script = path.relative_to(ROOT), Path(sys.argv[0]).name
    print(f"{shown} does not show the committed results; run scripts/{script}", file=sys.stderr)
    return 1
