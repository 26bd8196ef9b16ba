"""The commands for language models. Like all others they import their work when it has been found possible."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .options import Model, Threads, check_language_model, use_threads


class Rows(str, Enum):
    """How rows of results are printed."""

    md = "md"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"


class Layout(str, Enum):
    """How a converted model is stored."""

    edgekern = "edgekern"
    compressed_tensors = "compressed-tensors"


def _counts(text: str) -> list[int]:
    """Whole numbers between commas."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"expected whole numbers, as 512 or 1,2; got {text!r}") from None
    if min(counts) < 0:
        raise typer.BadParameter(f"expected numbers from 0; got {text!r}")
    return counts


def quantize(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Folder to write; made new.")],
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML file of a scheme or rules.")] = None,
    scheme: Annotated[str | None, typer.Option(metavar="NAME", help="One scheme for all layers, as int8.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="Bits for each layer as they fit into '4.5 bpw', '120 MB' or '8 ms'."),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="UTF-8 text to see losses by, with --budget, or to calibrate by; else Wikipedia's out of gensim.",
        ),
    ] = None,
    layout: Annotated[
        Layout, typer.Option(help="How to store it: for edgekern, or as vLLM reads it.")
    ] = Layout.edgekern,
    threads: Threads = None,
) -> None:
    """Convert a model layer by layer while it is read, and save it; a converted one is stored in another layout."""
    check_language_model(model)
    from . import quantize as command

    command.check_one(scheme, config, budget)
    command.check_output(output)
    use_threads(threads)
    chosen = command.choose(scheme, config, text) if budget is None else command.within(model, budget, text)
    command.run(model, output, chosen, layout.value, text)


def compress(
    model: Model,
    recipe: Annotated[str, typer.Option(metavar="NAME|FILE", help="int8, int4, tiny-llm ..., or a TOML file.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Folder of the run.")],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="UTF-8 text to learn from; without it, texts out of packages.")
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval", metavar="FILE", help="UTF-8 text to evaluate on; else the beginning of --data, or WordSim-353."
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Remove what a run has written to OUT, begin anew.")
    ] = False,
    threads: Threads = None,
) -> None:
    """Prune, distil, train, quantise, convert and evaluate by a recipe; the same command goes on after a kill."""
    check_language_model(model)
    from ..compress import recipe_of

    chosen = recipe_of(recipe)  # before transformers is imported, which takes seconds
    from . import compress as command

    use_threads(threads)
    command.run(model, output, chosen, data, evaluation, restart)


def evaluate(
    model: Model,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="UTF-8 text; without it, Wikipedia's prose out of gensim.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of a window.")] = 1024,
    windows: Annotated[int, typer.Option(min=1, help="Windows to read, from the start.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    threads: Threads = None,
) -> None:
    """Measure a model's perplexity on a text."""
    check_language_model(model)
    from . import perplexity as command

    use_threads(threads)
    command.run(model, text, tokens, windows, json)


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option("-p", "--prompt", help="What to answer, or with --raw to go on from.")],
    tokens: Annotated[int, typer.Option("-n", "--tokens", min=1, help="Most tokens to write.")] = 64,
    raw: Annotated[bool, typer.Option("--raw", help="Use the prompt as it is, not as a message of a chat.")] = False,
    threads: Threads = None,
) -> None:
    """Write text, at each step the likeliest token, and say how fast it came."""
    check_language_model(model)
    from . import generate as command

    use_threads(threads)
    command.run(model, prompt, tokens, raw)


def bench(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Folders of Hugging Face models.")],
    prompts: Annotated[str, typer.Option("-p", help="Tokens of a prompt to read; or several, as 128,512.")] = "512",
    writes: Annotated[str, typer.Option("-n", help="Tokens to write; or several. 0 leaves it out.")] = "128",
    threads: Annotated[str, typer.Option("-t", "--threads", help="Threads; or several, as 1,2.")] = "0",
    repeats: Annotated[int, typer.Option("-r", min=1, help="Repeats of each test.")] = 5,
    weights: Annotated[
        str, typer.Option("--as", help="Of float models: stored, float32, bfloat16, float16, torch-int8, schemes.")
    ] = "stored",
    output: Annotated[Rows, typer.Option("-o", help="How to print the rows.")] = Rows.md,
) -> None:
    """Time language models, in turns: tokens a second of reading a prompt (pp) and of writing (tg)."""
    reads, written, cores = _counts(prompts), _counts(writes), _counts(threads)
    for model in models:
        check_language_model(model)
    from . import bench_lm as command

    result = command.measure(models, weights.split(","), reads, written, cores, repeats)
    command.show(result, output.value)
