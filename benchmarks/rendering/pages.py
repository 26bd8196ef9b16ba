"""The tables, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from harness.table import Record

from edgekern.report.energy import energy_note, joules_text
from rendering.bars import Bar, geometric_mean, int4_bars, linear_bars, model_bars, tabled
from rendering.charts import label
from rendering.results import FLOOR, OURS, Cell, Results, profile_of, short_name

MISSING = "-"

INTRODUCTION = """# Benchmarks

Rendered by `benchmarks/render.py` from the files in `benchmarks/results`; no figure here is typed by hand.
How each rival is run and what is timed: [benchmarks/README.md](../benchmarks/README.md).

Times are medians over interleaved rounds, every program in a process of its own. "Ahead" is the best rival's time over
edgekern's in the same rounds: above 1, edgekern is faster.
"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first is aligned to the right.

    Raises:
        ValueError: a row of more or fewer columns, whose figures would stand under other names.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"expected {len(header)} columns, {', '.join(header)}; got {len(row)}: {', '.join(row)}")
    lines = [" | ".join(header), " | ".join(["---", *["---:"] * (len(header) - 1)])]
    lines += [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def microseconds(seconds: float | None) -> str:
    """Three digits or more."""
    if seconds is None:
        return MISSING
    value = seconds * 1e6
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def milliseconds(seconds: float | None) -> str:
    """One digit behind the point."""
    return MISSING if seconds is None else f"{seconds * 1e3:.1f}"


def percent(share: float | None) -> str:
    """Without digits behind the point; empty for None."""
    return "" if share is None else f"{share:.0%}"


def ratio(value: float | None) -> str:
    """Two digits, bold when it is below 1."""
    if value is None:
        return MISSING
    return f"{value:.2f}" if value >= 1 else f"**{value:.2f}**"


def bars_table(bars: Sequence[Bar]) -> str:
    """Goals, what was measured, and a plain yes or no."""
    words = {True: "yes", False: "**no**", None: MISSING}
    return table(["goal", "measured", "met"], [[bar.goal, bar.measured, words[bar.met]] for bar in bars])


def is_ours(subject: str) -> bool:
    """Whether a row is edgekern's, in benchmarks that have several of them."""
    return subject.startswith(f"{OURS}-")


def best_rival(cell: Cell) -> str | None:
    """The fastest that is not edgekern's; None when nobody else was measured."""
    return min((name for name in cell.timings if not is_ours(name)), key=lambda name: cell.seconds(name), default=None)


def marked(cell: Cell, subject: str, text: str) -> str:
    """`text` of the subject: bold for the fastest of all in the cell, in italics for the fastest rival."""
    if subject == min(cell.timings, key=lambda name: cell.seconds(name)):
        return f"**{text}**"
    return f"*{text}*" if subject == best_rival(cell) else text


def plural(count: int) -> str:
    """ "1 thread", "2 threads"."""
    return f"{count} thread{'s' * (count > 1)}"


def facts(results: Results) -> str:
    """Machine, versions and settings; what joules are of, if any; who disturbed; who was not measured, and why."""
    header = results.header
    versions = ", ".join(f"{name} {version}" for name, version in sorted(results.versions.items()))
    kernel = f" edgekern ran its {results.kernel()} kernels." if results.kernel() else ""
    paragraphs = [
        f"{header['cores']} cores, {header['last_level_cache_bytes'] / 2**20:.0f} MiB last-level cache, "
        f"{header['memory_bytes'] / 2**30:.0f} GiB; {header['system']}; Python {header['python']}, {versions}. "
        f"Commit {header['commit'] or 'unknown'}, {header['date'][:10]}, {header['rounds']} rounds.{kernel}"
    ]
    if any(cell.joules(name) is not None for cell in results.cells for name in cell.timings):
        paragraphs.append(f"{energy_note(header['energy'])}.")
    disturbed, total = results.disturbed()
    if disturbed:
        paragraphs.append(f"**{disturbed} of {total} cells were measured while other programs used the machine.**")
    if results.failures:
        paragraphs.append("Not measured:")
        paragraphs.append("\n".join(_failure_line(record) for record in results.failures))
    return "\n\n".join(paragraphs)


def joules_table(cells: Sequence[Cell]) -> str:
    """Joules of everybody: a column for each subject of `cells`, and a row where any of them was measured.

    Empty where none was, as without a sensor.
    """
    subjects = dict.fromkeys(name for cell in cells for name in cell.timings)
    spent = {(cell.name, cell.threads): [cell.joules(name) for name in subjects] for cell in cells}
    rows = [
        [f"{name}, {plural(threads)}", *map(joules_text, joules)]
        for (name, threads), joules in spent.items()
        if any(each is not None for each in joules)
    ]
    unit = "J/token" if "tokens" in cells[0].task else "J/inference"
    return table([unit, *map(label, subjects)], rows) if rows else ""


def _failure_line(record: Record) -> str:
    where = f"{record.get('name', 'all cells')}, {plural(record['threads'])}"
    reason = record["reason"].removeprefix(f"{record['subject']}: ").splitlines()[0]
    return f"- {label(short_name(record['subject']))}, {where}: {reason}"


def _summary(results: Results) -> list[str]:
    sentences = []
    for threads in sorted({cell.threads for cell in results.cells}):
        ahead = [r for c in tabled(results.cells) if c.threads == threads and (r := c.ahead()) is not None]
        if ahead:
            first = sum(ratio >= 1 for ratio in ahead)
            sentences.append(
                f"On {plural(threads)}, {geometric_mean(ahead):.2f} times ahead of the best rival per cell "
                f"(geometric mean), and first in {first} of {len(ahead)} cells."
            )
    return sentences


def _linear_row(cell: Cell, subjects: Sequence[str]) -> list[str]:
    best = cell.best_rival()
    times = []
    for name in subjects:
        text = microseconds(cell.seconds(name))
        times.append(f"*{text}*" if best and name == best[0] else text)
    share = cell.bandwidth_share() if cell.task["cold"] else cell.peak_share() if cell.task["m"] >= 64 else None
    unit = " of bandwidth" if cell.task["cold"] else " of peak"
    return [cell.name.replace("-cold", ", cold"), *times, ratio(cell.ahead()), percent(share) + unit if share else ""]


def linear_section(results: Results, charts: Sequence[str]) -> str:
    """One machine's linear layers, of int8 or int4 weights: goals, summary, charts and every cell."""
    int4 = results.benchmark == "int4"
    subjects = results.subjects()
    parts = [
        f"## One linear layer{' with int4 weights' * int4}: {results.title}",
        facts(results),
        bars_table(int4_bars(results) if int4 else linear_bars(results)),
        " ".join(_summary(results)),
    ]
    parts += [f"![{results.title}](img/{name})" for name in charts]
    for threads in sorted({cell.threads for cell in results.cells}):
        cells = [cell for cell in results.cells if cell.threads == threads]
        rows = [_linear_row(cell, subjects) for cell in cells]
        header = ["M x K x N", *map(label, subjects), "ahead", "of the machine"]
        parts.append(f"### {plural(threads)}, µs\n\nThe best rival is in italics.")
        parts.append(table(header, rows))
    parts.append(joules_table(results.cells))
    return "\n\n".join(part for part in parts if part)


def model_section(results: Results, charts: Sequence[str]) -> str:
    """One machine's MiniLM: goals, latencies, and where the time goes."""
    parts = [f"## MiniLM, a sentence encoder: {results.title}", facts(results), bars_table(model_bars(results))]
    parts += [f"![{results.title}](img/{name})" for name in charts]
    rows = []
    for name in results.subjects():
        errors = [
            c.timings[name]["relative_error"] for c in results.cells if "relative_error" in c.timings.get(name, {})
        ]
        times = [milliseconds(cell.seconds(name)) for cell in results.cells]
        rows.append([label(name), *times, f"{max(errors):.1%}" if errors else ""])
    columns = [f"{cell.name}, {plural(cell.threads)}" for cell in results.cells]
    parts.append("### Milliseconds a call\n\n" + table(["", *columns, "error"], rows))
    parts.append("The error is the distance of the pooled embeddings from float32's, in proportion.")
    if FLOOR in results.subjects():
        parts.append(f"No linear kernel can bring the model below the row '{label(FLOOR)}'.")
    parts += [joules_table(results.cells), _profile_table(results)]
    return "\n\n".join(part for part in parts if part)


def _profile_table(results: Results) -> str:
    blocks = []
    for cell in results.cells:
        profiles = {name: profile_of(results, name, cell.name, cell.threads) for name in results.subjects()}
        profiles = {name: parts for name, parts in profiles.items() if parts}
        if not profiles:
            continue
        kinds = sorted(
            {kind for parts in profiles.values() for kind in parts}, key=lambda k: -profiles.get(OURS, {}).get(k, 0)
        )
        rows = [[kind, *(milliseconds(parts.get(kind)) for parts in profiles.values())] for kind in kinds]
        title = f"### Where the time goes: {cell.name}, {plural(cell.threads)}, ms"
        blocks.append(f"{title}\n\n{table(['', *map(label, profiles)], rows)}")
    return "\n\n".join(blocks)


README_CELLS = ("1x768x3072", "1x2048x8192-cold", "16x768x3072", "128x768x3072", "512x768x3072")


def readme_block(all_results: Sequence[Results], charts: dict[str, list[str]]) -> str:
    """The short version for the README: for each machine a sentence, a few cells on the most threads, the chart."""
    parts = []
    for results in all_results:
        if results.benchmark != "linear" or results.header["tier"] or results.header["isa"]:
            continue
        most = max(cell.threads for cell in results.cells)
        cells = [c for c in results.cells if c.threads == most and c.name in README_CELLS and c.ahead() is not None]
        cells.sort(key=lambda cell: README_CELLS.index(cell.name))
        rows = []
        for cell in cells:
            name, seconds = cell.best_rival() or ("", 0.0)
            ours = microseconds(cell.seconds(OURS))
            rows.append(
                [cell.name.replace("-cold", ", cold"), ours, microseconds(seconds), label(name), ratio(cell.ahead())]
            )
        parts.append(
            " ".join([f"One linear layer on {results.title}, {results.kernel()} kernels.", *_summary(results)])
        )
        if rows:
            parts.append(table(["M x K x N", "edgekern, µs", "best rival, µs", "best rival", "ahead"], rows))
        parts += [f"![{results.title}](docs/img/{name})" for name in charts.get(results.slug, [])[:1]]
    parts.append("All cells, rivals and machines: [docs/benchmarks.md](docs/benchmarks.md).")
    return "\n\n".join(parts)
