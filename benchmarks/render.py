"""Render benchmarks/results into docs/benchmarks.md, docs/convolutions.md, docs/img and the README.

No number there is typed by hand.

Usage:

    python benchmarks/render.py            write the pages and the charts
    python benchmarks/render.py --check    exit with 1 when a page is not what the results say
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rendering.charts import draw_model, draw_rates, draw_ratios
from rendering.cnn import cnn_section
from rendering.conv2d import conv2d_section
from rendering.language_model import language_model_section
from rendering.pages import INTRODUCTION, linear_section, model_section, readme_block
from rendering.results import Results, newest
from rendering.sparse import sparse_section

ROOT = Path(__file__).resolve().parent.parent


def marks(name: str) -> tuple[str, str]:
    """What stands before and behind the results of that name in a page."""
    return f"<!-- results:{name}:start -->", f"<!-- results:{name}:end -->"


START, END = marks("linear")
CONVOLUTIONS = "docs/convolutions.md"

# What each benchmark is rendered by: its section, and its charts by the end of their names, the README's first.
SECTIONS = {
    "int4": linear_section,
    "linear": linear_section,
    "lm": language_model_section,
    "model": model_section,
    "sparse": sparse_section,
}
# And what stands in marked places of docs/convolutions.md, which say themselves that nothing was measured yet.
CONVOLUTION_SECTIONS = {"cnn": cnn_section, "conv2d": conv2d_section}
CHARTS = {
    **{benchmark: {} for benchmark in CONVOLUTION_SECTIONS},
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


def fill(page: str, block: str, name: str = "linear") -> str:
    """`page` with `block` between the markers of that name. Raises ValueError for none or more than one pair."""
    start, end = marks(name)
    if page.count(start) != 1 or page.count(end) != 1:
        raise ValueError(f"expected one {start} and one {end} in the page")
    before, rest = page.split(start)
    _, after = rest.split(end)
    return f"{before}{start}\n{block}\n{end}{after}"


def pages(all_results: list[Results], readme: str) -> tuple[str, str]:
    """(docs/benchmarks.md, README.md) for these results."""
    sections = [INTRODUCTION.rstrip()]
    for results in all_results:
        if results.benchmark in SECTIONS:
            sections.append(SECTIONS[results.benchmark](results, charts_of(results)))
    charts = {results.slug: charts_of(results) for results in all_results if results.benchmark == "linear"}
    return "\n\n".join(sections) + "\n", fill(readme, readme_block(all_results, charts))


def convolutions(all_results: list[Results], page: str) -> str:
    """docs/convolutions.md for these results. A benchmark that has none leaves its place as it is."""
    for name, section in CONVOLUTION_SECTIONS.items():
        if blocks := [section(results) for results in all_results if results.benchmark == name]:
            page = fill(page, "\n\n".join(blocks), name)
    return page


def main(
    root: Annotated[Path, typer.Option(help="A repository to render into; its benchmarks/results are read.")] = ROOT,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit with 1 when a page is stale.")] = False,
) -> None:
    files = sorted((root / "benchmarks/results").glob("*.jsonl"))
    if not files:
        raise typer.BadParameter(f"no *.jsonl in {root / 'benchmarks/results'}")
    all_results = newest(files)
    docs, readme, convolution_page = (root / name for name in ("docs/benchmarks.md", "README.md", CONVOLUTIONS))
    texts = {}
    texts[docs], texts[readme] = pages(all_results, readme.read_text())
    if any(results.benchmark in CONVOLUTION_SECTIONS for results in all_results):
        texts[convolution_page] = convolutions(all_results, convolution_page.read_text())
    if check:
        stale = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
        for path in stale:
            typer.echo(
                f"{path.relative_to(root)} is not what benchmarks/results say: run python benchmarks/render.py",
                err=True,
            )
        raise typer.Exit(1 if stale else 0)
    for results in all_results:
        draw(results, root / "docs/img")
    for path, text in texts.items():
        path.write_text(text)


if __name__ == "__main__":
    typer.run(main)
