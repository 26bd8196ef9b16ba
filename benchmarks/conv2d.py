"""Time one convolution, float32 images in and out: edgekern's int8, its rivals, and the machine's own int8 peak.

The layers are those of EfficientNet-lite0 and ResNet-18, each once, for one image.

Usage:

    python benchmarks/conv2d.py                        the whole table
    python benchmarks/conv2d.py --quick                a taste, in about a minute
    python benchmarks/conv2d.py --cells 'depthwise*' --rivals torch-fp32 --threads 2
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from harness.command import (
    Cells,
    Isa,
    Output,
    Rivals,
    Rounds,
    Seconds,
    Threads,
    Tier,
    caps,
    choose_cells,
    choose_rivals,
    run,
)
from harness.subject import CONV_KINDS
from harness.table import Plan
from rivals.conv_layer import Conv

OURS = (*(f"conv-edgekern-{kind}" for kind in CONV_KINDS), "conv-edgekern-pruned")
RIVALS = ("torch-fp32", "onnxruntime-int8-static", "openvino-int8-static")
LIMITS = ("peak-int8",)

# (channels in, out, stride of the first kernel, its size, expansion, repeats, input size), stage by stage; table 1 of
# https://arxiv.org/abs/1905.11946, with the first and last layers of "lite".
EFFICIENTNET_STAGES = (
    (32, 16, 1, 3, 1, 1, 112),
    (16, 24, 2, 3, 6, 2, 112),
    (24, 40, 2, 5, 6, 2, 56),
    (40, 80, 2, 3, 6, 3, 28),
    (80, 112, 1, 5, 6, 3, 14),
    (112, 192, 2, 5, 6, 4, 14),
    (192, 320, 1, 3, 6, 1, 7),
)
# (channels in, out, size of the input, stride of the first), stage by stage; table 1 of https://arxiv.org/abs/1512.03385
RESNET_STAGES = ((64, 64, 56, 1), (64, 128, 56, 2), (128, 256, 28, 2), (256, 512, 14, 2))
QUICK_CELLS = ("1x1-80-480-14", "depthwise5x5-240-28", "3x3-64-64-56", "stem3x3-3-32-224-s2")


def _conv(kernel: int, stride: int, channels: int, out_channels: int, size: int, groups: int = 1) -> Conv:
    return Conv(kernel, stride, channels, out_channels, groups, size, batch=1)


def efficientnet_lite0() -> list[Conv]:
    """Every convolution of EfficientNet-lite0, in its order."""
    layers = [_conv(3, 2, 3, 32, 224)]
    for channels, out_channels, first_stride, kernel, expansion, repeats, size in EFFICIENTNET_STAGES:
        for i in range(repeats):
            stride = 1 if i else first_stride
            wide = channels * expansion
            if expansion > 1:
                layers.append(_conv(1, 1, channels, wide, size))
            layers.append(_conv(kernel, stride, wide, wide, size, groups=wide))
            size //= stride
            layers.append(_conv(1, 1, wide, out_channels, size))
            channels = out_channels
    return [*layers, _conv(1, 1, 320, 1280, 7)]


def resnet18() -> list[Conv]:
    """Every convolution of ResNet-18, in its order."""
    layers = [_conv(7, 2, 3, 64, 224)]
    for channels, out_channels, size, stride in RESNET_STAGES:
        small = size // stride
        layers += [
            _conv(3, stride, channels, out_channels, size),
            *[_conv(3, 1, out_channels, out_channels, small)] * 3,
        ]
        if stride > 1:
            layers.append(_conv(1, stride, channels, out_channels, size))
    return layers


def kind_of(conv: Conv) -> str:
    """ "stem", "1x1", "3x3", "depthwise"."""
    if conv.in_channels == 3:
        return "stem"
    return "depthwise" if conv.groups > 1 else f"{conv.kernel}x{conv.kernel}"


def name_of(conv: Conv) -> str:
    """ "3x3-64-128-56-s2", "depthwise5x5-240-28": kernel, channels, size of the input, stride."""
    kind = kind_of(conv)
    kernel = kind if kind[0].isdigit() else f"{kind}{conv.kernel}x{conv.kernel}"
    channels = [conv.in_channels] if kind == "depthwise" else [conv.in_channels, conv.out_channels]
    stride = [f"s{conv.stride}"] if conv.stride > 1 else []
    return "-".join(map(str, [kernel, *channels, conv.size, *stride]))


def all_cells() -> list[dict[str, Any]]:
    """Each layer of each network once, with how often the network has it."""
    cells = []
    for network, layers in (("efficientnet-lite0", efficientnet_lite0()), ("resnet18", resnet18())):
        for conv in dict.fromkeys(layers):
            facts = {"layer": kind_of(conv), "network": network, "count": layers.count(conv), "macs": conv.macs}
            cells.append({"name": name_of(conv), **conv._asdict(), **facts})
    return cells


def main(
    cells: Cells = None,
    rivals: Rivals = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    seconds: Seconds = 0.06,
    quick: Annotated[bool, typer.Option("--quick", help="Four cells and three short rounds.")] = False,
    ours: Annotated[bool, typer.Option(help="--no-ours leaves edgekern and the machine's peak out.")] = True,
    isa: Isa = None,
    tier: Tier = None,
    output: Output = None,
) -> None:
    chosen = [f"conv-{name}" for name in choose_rivals(rivals, RIVALS)]
    if quick:
        rounds, seconds = min(rounds, 3), min(seconds, 0.03)
    plan = Plan(
        subjects=[*OURS, *chosen] if ours else chosen,
        limits=LIMITS if ours else (),
        threads=threads or [1, 2],
        tasks=choose_cells(all_cells(), cells or (QUICK_CELLS if quick else ["*"])),
        rounds=rounds,
        seconds=seconds,
        environment=caps(tier, isa),
        required=[OURS[0], *LIMITS] if ours else (),
    )
    run("conv2d", plan, tier, isa, output)


if __name__ == "__main__":
    typer.run(main)
