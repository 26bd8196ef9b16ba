"""The commands. Each one's work is imported when it runs, so that --help needs neither torch nor time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from . import language_models
from .options import Demo, Dtype, Format, Output, Threads, check_packages, use_threads

app = typer.Typer(
    name="edgekern",
    help="Makes PyTorch models smaller and faster on ordinary CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

benches = typer.Typer(help="Time one layer or the demo's model; `conv` times a convolution, `lm` language models.")


@app.callback()
def _common(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the full traceback of an error.")] = False,
) -> None:
    """Makes PyTorch models smaller and faster on ordinary CPUs."""


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

    use_threads(threads)
    command.show(command.collect(measure), as_json=json)


@app.command()
def demo(
    model: Annotated[Demo, typer.Option(help="minilm reads texts, efficientnet sees photographs.")] = Demo.minilm,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer timing rounds, no SimLex-999: for CI.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for demo.json, explain.txt and a chart.")] = Path("demo-output"),
    threads: Threads = None,
) -> None:
    """Score and time a real text encoder or image classifier in float32 and int8."""
    output.mkdir(parents=True, exist_ok=True)  # before anything that takes long
    use_threads(threads)
    failures: Sequence[str]
    if model is Demo.efficientnet:
        from . import demo_images

        failures = demo_images.run(quick=quick, output=output)["failures"]
    else:
        from . import demo as demo_texts

        failures = demo_texts.run(quick=quick, output=output)["failures"]
    if failures:
        raise typer.Exit(1)


@app.command(context_settings={"allow_interspersed_args": False})  # the first word that is no option begins CMD
def energy(
    cmd: Annotated[list[str] | None, typer.Argument(metavar="-- CMD...", help="The command to run.")] = None,
    list_sensors: Annotated[bool, typer.Option("--list", help="Show the sensors there are, and run nothing.")] = False,
    sensor: Annotated[str | None, typer.Option(metavar="NAME", help="Which sensor to read, or all.")] = None,
    scope: Annotated[str | None, typer.Option(help="Instead: package, board, rail, battery, memory or device.")] = None,
    idle: Annotated[float, typer.Option(min=0, help="Seconds to look at the idle machine first, to subtract.")] = 0,
    interval: Annotated[float, typer.Option(min=0.01, help="Seconds between readings.")] = 0.1,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to print the result.")] = Output.table,
) -> None:
    """Run a command and say how many joules the machine took meanwhile; the exit status is the command's."""
    if list_sensors == bool(cmd):
        raise typer.BadParameter("expected a command to run, as in `edgekern energy -- sleep 1`, or --list")
    from ..energy import EnergyMeter
    from . import energy as command

    meter = EnergyMeter(sensor, scope, interval=interval, idle_seconds=idle)
    if cmd:
        raise typer.Exit(command.run(cmd, meter, output is Output.json))
    command.list_sensors(meter, output is Output.json)


@app.command()
def report(
    out: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Folders that compression runs wrote to.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the page; OUT/report else.")] = None,
) -> None:
    """Write one page with charts about a compression run, or one that compares several."""
    check_packages("the report needs", ("matplotlib", "jinja2"), "report")
    from . import report as command

    command.run(out, output)


app.add_typer(benches, name="bench")


@benches.callback(invoke_without_command=True)
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
    if context.invoked_subcommand is not None:
        return
    from . import bench as command

    use_threads(threads)
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


@benches.command(name="conv")
def bench_conv(
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    channels: Annotated[int, typer.Option("-i", min=1, help="in_channels.")] = 64,
    out_channels: Annotated[int, typer.Option("-o", min=1, help="out_channels.")] = 64,
    size: Annotated[int, typer.Option("-s", min=1, help="Height and width of an image.")] = 56,
    kernel: Annotated[int, typer.Option("-k", min=1, help="Height and width of the kernel.")] = 3,
    stride: Annotated[int, typer.Option(min=1, help="Pixels from one window to the next.")] = 1,
    groups: Annotated[int, typer.Option("-g", min=1, help="groups; as many as channels is depthwise.")] = 1,
    dtype: Annotated[Dtype, typer.Option(help="Images of the int8 layer.")] = Dtype.float32,
    rounds: Annotated[int, typer.Option(min=1, help="Alternating rounds; more is steadier.")] = 20,
    threads: Threads = None,
    format: Annotated[Format, typer.Option(help="How to print the results.")] = Format.table,
) -> None:
    """Time one convolution in int8 against torch's float32 and bfloat16, in alternating rounds of one run."""
    from . import bench as command

    use_threads(threads)
    shape = command.Convolution(batch, channels, out_channels, size, kernel, stride, groups)
    command.show(command.measure(command.conv_case(shape, dtype.value), rounds), format.value)


app.command()(language_models.quantize)
app.command()(language_models.compress)
app.command(name="eval")(language_models.evaluate)
app.command()(language_models.generate)
benches.command(name="lm")(language_models.bench)
