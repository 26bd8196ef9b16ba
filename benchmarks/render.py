"""Render benchmarks/results into docs/benchmarks.md, docs/img and the README, so that no number there is typed by hand.

Usage:

    python benchmarks/render.py            write the pages and the charts
    python benchmarks/render.py --check    exit with 1 when a page is not what the results say
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rendering.charts import draw_model, draw_rates, draw_ratios
from rendering.language_model import language_model_section
from rendering.pages import INTRODUCTION, linear_section, model_section, readme_block
from rendering.results import Results, newest
from rendering.sparse import sparse_section

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- results:linear:start -->", "<!-- results:linear:end -->"


# What each benchmark is rendered by: its section, and its charts by the end of their names, the README's first.
SECTIONS = {
    "int4": linear_section,
    "linear": linear_section,
    "lm": language_model_section,
    "model": model_section,
    "sparse": sparse_section,
}
CHARTS = {
    "int4": {},
    "linear": {"": draw_ratios, "-rates": draw_rates},
    "lm": {},
    "model": {"": draw_model},
    "sparse": {},
}


def charts_of(results: Results) -> list[str]:
    """The file names of the charts of one results file."""
    return [f"{results.benchmark}-{results.slug}{end}.png" for end in CHARTS[results.benchmark]]


def draw(results: Results, folder: Path) -> None:
    """Draw the charts of one results file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw_chart in zip(charts_of(results), CHARTS[results.benchmark].values(), strict=True):
        draw_chart(results, folder / name)


def fill(readme: str, block: str) -> str:
    """`readme` with `block` between its markers. Raises ValueError when there is not exactly one pair of them."""
    if readme.count(START) != 1 or readme.count(END) != 1:
        raise ValueError(f"expected one {START} and one {END} in the README")
    before, rest = readme.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{block}\n{END}{after}"


def pages(all_results: list[Results], readme: str) -> tuple[str, str]:
    """(docs/benchmarks.md, README.md) for these results."""
    sections = [INTRODUCTION.rstrip()]
    for results in all_results:
        sections.append(SECTIONS[results.benchmark](results, charts_of(results)))
    charts = {results.slug: charts_of(results) for results in all_results if results.benchmark == "linear"}
    return "\n\n".join(sections) + "\n", fill(readme, readme_block(all_results, charts))


def main(
    root: Annotated[Path, typer.Option(help="A repository to render into; its benchmarks/results are read.")] = ROOT,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit with 1 when a page is stale.")] = False,
) -> None:
    files = sorted((root / "benchmarks/results").glob("*.jsonl"))
    if not files:
        raise typer.BadParameter(f"no *.jsonl in {root / 'benchmarks/results'}")
    all_results = newest(files)
    targets = (root / "docs/benchmarks.md", root / "README.md")
    texts = pages(all_results, targets[1].read_text())
    if check:
        stale = [
            path for path, text in zip(targets, texts, strict=True) if not path.exists() or path.read_text() != text
        ]
        for path in stale:
            typer.echo(
                f"{path.relative_to(root)} is not what benchmarks/results say: run python benchmarks/render.py",
                err=True,
            )
        raise typer.Exit(1 if stale else 0)
    for results in all_results:
        draw(results, root / "docs/img")
    for path, text in zip(targets, texts, strict=True):
        path.write_text(text)


if __name__ == "__main__":
    typer.run(main)
