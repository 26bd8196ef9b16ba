"""What an :class:`~edgekern.nn.int8_program.Int8Program` runs, step by step, and the ranges between steps."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from edgekern import ops
from edgekern.kernels import Range
from edgekern.nn.native_conv import NativeConv2d

CONV2D, ADD, MAX_POOL = range(3)
UINT8, AS_INPUT = 3, -1
"""Codes of the op's ``dtype`` beside those of :data:`edgekern.ops.FLOATS`."""
_FLOATS: Range = (0.0, 0)


@dataclass(frozen=True)
class Step:
    """One step of a program. ``x`` and ``other`` are numbers of images: 0 is the input, i + 1 what step i makes."""

    kind: int
    x: int
    other: int = -1
    layer: NativeConv2d | None = None
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Left, right, top, bottom."""
    same_padding: bool = False
    activation: str = "none"
    x_range: Range | None = None
    """By which a convolution rounds its image; of a sum, by which it has been rounded to uint8, as is the next."""
    other_range: Range | None = None
    y_range: Range | None = None
    """By which the result is rounded to uint8; None where it is floats."""
    dtype: int = 0
    """Code of the floats that come of uint8."""

    @classmethod
    def convolution(cls, layer: NativeConv2d, x: int, activation: str) -> Step:
        """A converted layer with a range; ``activation`` is its own, or the one that follows it."""
        pads = (0, 0, 0, 0) if layer.same_padding else layer._pads
        return cls(
            CONV2D,
            x,
            layer=layer,
            kernel=layer.kernel_size,
            stride=layer.stride,
            dilation=layer.dilation,
            pads=pads,
            same_padding=layer.same_padding,
            activation=activation,
            x_range=layer.input_range,
            y_range=layer.output_range,
            dtype=ops.FLOATS[str(layer.dtype).removeprefix("torch.")],
        )

    @property
    def window(self) -> list[int]:
        """As the op has it: kernel, stride and dilation, zeros at the top, bottom, left and right, and "SAME"."""
        left, right, top, bottom = self.pads
        return [*self.kernel, *self.stride, *self.dilation, top, bottom, left, right, int(self.same_padding)]

    @property
    def keeps_size(self) -> bool:
        """Whether images of every size keep theirs."""
        left, right, top, bottom = self.pads
        needed = [dilation * (kernel - 1) for kernel, dilation in zip(self.kernel, self.dilation, strict=True)]
        return self.stride == (1, 1) and (self.same_padding or needed == [top + bottom, left + right])

    def row(self, packed: int) -> list[int]:
        """Its row of the op's program."""
        codes = [self.kind, self.x, self.other, packed, ops.ACTIVATIONS[self.activation]]
        ranges = (self.x_range, self.other_range, self.y_range)
        numbers = [number for each in ranges for number in _as_integers(each or _FLOATS)]
        return [*codes, *numbers, self.dtype, *self.window]


@dataclass
class Path:
    """What fake tensors have to know of a program: it is read off the steps that lead from the input to the result."""

    windows: list[int] = field(default_factory=list)
    dtype: int = AS_INPUT
    channels_last: bool = False
    channels: int = 0

    @classmethod
    def through(cls, steps: Sequence[Step], channels: int, takes_uint8: bool) -> Path:
        """By what each step reads first; sums do not change what sizes that has."""
        paths = [cls(dtype=UINT8 if takes_uint8 else AS_INPUT, channels_last=takes_uint8, channels=channels)]
        for step in steps:
            before = paths[step.x]
            windows = before.windows if step.keeps_size else before.windows + step.window
            channels_last = before.channels_last or before.dtype == UINT8 or step.y_range is not None
            path = cls(windows, _dtype_after(step, paths), channels_last, before.channels)
            if step.layer is not None:
                path.channels = step.layer.out_channels
            paths.append(path)
        return paths[-1]


def _dtype_after(step: Step, paths: Sequence[Path]) -> int:
    x = paths[step.x].dtype
    if step.y_range is not None:
        return UINT8
    if x != UINT8 or step.kind == MAX_POOL:
        return x
    other = paths[step.other].dtype if step.kind == ADD else UINT8
    return step.dtype if other == UINT8 else other


def with_uint8_sums(steps: Sequence[Step]) -> list[Step]:
    """The same, but that all that convolutions read by one range is rounded by it when it is made.

    Sums that read it too then add uint8, and poolings before such convolutions take it.
    """
    found: list[Range | None] = [None] * (len(steps) + 1)
    for number in range(1, len(steps)):
        maker = steps[number - 1]
        ranges = set(_ranges_of_readers(steps, number))
        found[number] = found[maker.x] if maker.kind == MAX_POOL else ranges.pop() if len(ranges) == 1 else None
    found[-1] = steps[-1].y_range
    dtype = next(step.dtype for step in steps if step.layer is not None)
    rounded: list[Step] = []
    for number, step in enumerate(steps, start=1):
        if step.kind == CONV2D:
            rounded.append(replace(step, y_range=found[number]))
        elif step.kind == ADD:
            x, other = found[step.x], found[step.other]
            rounded.append(replace(step, x_range=x, other_range=other, y_range=found[number], dtype=dtype))
        else:
            rounded.append(step)
    return rounded


def _ranges_of_readers(steps: Sequence[Step], number: int) -> list[Range | None]:
    """By which convolutions round an image, also one that is pooled before; None of those that want floats."""
    ranges: list[Range | None] = []
    for index, step in enumerate(steps, start=1):
        if step.x != number or step.kind == ADD:
            continue
        if step.kind == MAX_POOL:
            is_result = index == len(steps)
            ranges += [None] if is_result else _ranges_of_readers(steps, index)
        else:
            ranges.append(step.x_range)
    return ranges


def _as_integers(given: Range) -> tuple[int, int]:
    scale, zero_point = given
    return struct.unpack("<I", struct.pack("<f", scale))[0], zero_point
