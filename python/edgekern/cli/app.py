"""The commands. Each one's work is imported when it runs, so that --help needs neither torch nor time."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="edgekern",
    help="Makes PyTorch models smaller and faster on ordinary CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Threads = Annotated[int | None, typer.Option(min=1, help="Threads to compute with; torch's own default otherwise.")]


class Dtype(str, Enum):
    """What activations are stored as."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Format(str, Enum):
    """How results are printed."""

    table = "table"
    markdown = "markdown"
    json = "json"


@app.callback()
def _common(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the full traceback of an error.")] = False,
) -> None:
    """Makes PyTorch models smaller and faster on ordinary CPUs."""


def _use_threads(count: int | None) -> None:
    if count is not None:
        from .._lib import set_num_threads

        set_num_threads(count)


def _refuse(context: typer.Context, *names: str, beside: str) -> None:
    """Raises BadParameter when one of these options was given, since `beside` settles what they would."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in names and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"{option.opts[0]} has no effect with {beside}, which times a fixed set of layers")


@app.command()
def info(
    measure: Annotated[bool, typer.Option(help="Measure peak int8 rate and read bandwidth (2 s, 256 MB).")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    threads: Threads = None,
) -> None:
    """Show the CPU, which kernels run on it and why, and what it can do at most."""
    from . import info as command

    _use_threads(threads)
    command.show(command.collect(measure), as_json=json)


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer timing rounds and no SimLex-999: for CI.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for demo.json, demo.png and explain.txt.")] = Path("demo-output"),
    threads: Threads = None,
) -> None:
    """Score and time a real text encoder in float32 and int8."""
    output.mkdir(parents=True, exist_ok=True)  # before anything that takes long
    from . import demo as command

    _use_threads(threads)
    result = command.run(quick=quick, output=output)
    if result["failures"]:
        raise typer.Exit(1)


@app.command()
def bench(
    context: typer.Context,
    m: Annotated[int, typer.Option("-m", min=1, help="Rows of activations.")] = 64,
    k: Annotated[int, typer.Option("-k", min=1, help="in_features.")] = 768,
    n: Annotated[int, typer.Option("-n", min=1, help="out_features.")] = 3072,
    minilm: Annotated[bool, typer.Option("--minilm", help="Time the demo's model instead of one layer.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Texts at once, with --minilm.")] = 1,
    sequence: Annotated[int, typer.Option(min=1, max=512, help="Tokens a text, with --minilm.")] = 128,
    dtype: Annotated[Dtype, typer.Option(help="Activations of the int8 layer.")] = Dtype.float32,
    rounds: Annotated[int, typer.Option(min=1, help="Alternating rounds; more is steadier.")] = 20,
    threads: Threads = None,
    format: Annotated[Format, typer.Option(help="How to print the results.")] = Format.table,
    submit: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Time a fixed set of layers; write a file to send.")
    ] = None,
) -> None:
    """Time int8 against torch's float32 and bfloat16, in alternating rounds of one run."""
    from . import bench as command

    _use_threads(threads)
    if submit is not None:
        _refuse(context, "m", "k", "n", "minilm", "batch", "sequence", "format", beside="--submit")
        from . import submit as submission

        submission.submit(submit, dtype.value, rounds)
        return
    if minilm:
        case = command.minilm_case(batch, sequence, dtype.value)
    else:
        case = command.linear_case(m, k, n, dtype.value)
    command.show(command.measure(case, rounds), format.value)
