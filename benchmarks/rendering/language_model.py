"""A language model: tokens a second of everybody, reading and writing."""

from __future__ import annotations

from collections.abc import Sequence

from rendering.charts import label
from rendering.pages import facts, joules_table, marked, plural, table
from rendering.results import Cell, Results

EXPLANATION = (
    "Tokens a second, at the median time of a call. `pp` is a prompt read in one call, `tg` are tokens written one by "
    "one from an empty context on. The fastest of edgekern's rivals is in italics, the fastest of all in bold. The "
    "error is the distance of the logits after the prompt from float32's, in proportion; the model's weights lie on a "
    "grid of 4-bit values already, so that it says little about how other models take to 4 bits. With all linear "
    "layers instant, what is left is transformers' own: Python, attention, norms."
)


def rate(cell: Cell, subject: str) -> float | None:
    """Tokens a second; None where it was not measured."""
    seconds = cell.seconds(subject)
    return cell.task["tokens"] / seconds if seconds else None


def _written(cell: Cell, subject: str) -> str:
    found = rate(cell, subject)
    if found is None:
        return "-"
    return marked(cell, subject, f"{found:,.1f}" if found < 1000 else f"{found:,.0f}")


def language_model_section(results: Results, charts: Sequence[str]) -> str:
    """One machine's language model."""
    rows = []
    for subject in results.subjects():
        timings = [cell.timings[subject] for cell in results.cells if subject in cell.timings]
        errors = [timing["relative_error"] for timing in timings if "relative_error" in timing]
        error = f"{max(errors):.1%}" if errors else ""
        rows.append([label(subject), *(_written(cell, subject) for cell in results.cells), error])
    columns = [f"{cell.name}, {plural(cell.threads)}" for cell in results.cells]
    title = f"## SmolLM2-135M, a language model: {results.title}"
    charted = [f"![{results.title}](img/{name})" for name in charts]
    parts = [title, facts(results), EXPLANATION, table(["", *columns, "error"], rows)]
    return "\n\n".join(part for part in [*parts, joules_table(results.cells), *charted] if part)
