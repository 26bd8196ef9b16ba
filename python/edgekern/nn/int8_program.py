"""A region of a frozen model: several int8 and int4 convolutions, and what is between them, in one call."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgekern import ops
from edgekern.kernels import Range
from edgekern.nn.native_conv import NativeConv2d

CONV2D, ADD, MAX_POOL = range(3)
UINT8, AS_INPUT = 3, -1
"""Codes of the op's ``dtype`` beside those of :data:`edgekern.ops.FLOATS`."""


@dataclass
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

    @classmethod
    def convolution(cls, layer: NativeConv2d, x: int, activation: str) -> Step:
        """A converted layer with a range; ``activation`` is its own, or the one that follows it."""
        pads = (0, 0, 0, 0) if layer.same_padding else layer._pads
        windows = (layer.kernel_size, layer.stride, layer.dilation)
        return cls(CONV2D, x, -1, layer, *windows, pads, layer.same_padding, activation)

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
        given, wanted, dtype = (0.0, 0), (0.0, 0), 0
        if self.layer is not None:
            given, wanted = self.layer.input_range or given, self.layer.output_range or wanted
            dtype = _code_of(self.layer)
        codes = [self.kind, self.x, self.other, packed, ops.ACTIVATIONS[self.activation]]
        return [*codes, *_as_integers(given), *_as_integers(wanted), dtype, *self.window]


@dataclass
class Path:
    """What fake tensors have to know of a program: it is read off the steps that lead from the input to the result."""

    windows: list[int] = field(default_factory=list)
    dtype: int = AS_INPUT
    channels_last: bool = False
    channels: int = 0

    @classmethod
    def through(cls, steps: Sequence[Step], channels: int, takes_uint8: bool) -> Path:
        """By what each step reads first; sums do not change what that is."""
        paths = [cls(dtype=UINT8 if takes_uint8 else AS_INPUT, channels_last=takes_uint8, channels=channels)]
        for step in steps:
            before = paths[step.x]
            windows = before.windows if step.keeps_size else before.windows + step.window
            path = cls(windows, before.dtype, before.channels_last, before.channels)
            if step.layer is not None:
                path.channels = step.layer.out_channels
                path.channels_last |= before.dtype == UINT8 or step.layer.output_range is not None
                if step.layer.output_range is not None:
                    path.dtype = UINT8
                elif before.dtype == UINT8:
                    path.dtype = _code_of(step.layer)
            paths.append(path)
        return paths[-1]


class Int8Program(nn.Module):
    """Runs the steps of a program in one native call, as :func:`edgekern.freeze` puts it into a model.

    Input: images that the first layers take, ``[batch, channels, height, width]`` or one without ``batch``, float32,
    bfloat16, float16 or uint8. Output: what these layers would give one by one, bit for bit, in the same memory format.

    The packed weights are the layers' own, not copies. It is of this machine alone: save the model it was made from.

    Args:
        steps: in the order they run; the last one makes the result.
        channels: of the input.
        takes_uint8: whether the input is uint8, by the range of the layers that read it.
    """

    def __init__(self, steps: Sequence[Step], channels: int, takes_uint8: bool = False) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.packed = [step.layer.packed for step in steps if step.layer is not None]
        places = iter(range(len(self.packed)))
        rows = [step.row(-1 if step.layer is None else next(places)) for step in steps]
        self.program = torch.tensor(rows, dtype=torch.int64, device="cpu")
        path = Path.through(steps, channels, takes_uint8)
        self._known = (path.channels, path.windows, path.dtype, path.channels_last)
        self._op = torch.ops.edgekern.int8_conv2d_program.default

    def forward(self, input: Tensor) -> Tensor:
        """Runs all steps."""
        if input.dim() == 3:
            return self._op(input.unsqueeze(0), self.packed, self.program, *self._known).squeeze(0)
        return self._op(input, self.packed, self.program, *self._known)

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Program:
        """Another one of the same layers, which nothing changes."""
        copy = type(self).__new__(type(self))
        nn.Module.__init__(copy)
        vars(copy).update({name: getattr(self, name) for name in ("steps", "packed", "program", "_known", "_op")})
        return copy.train(self.training)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuses to be pickled: packed weights are for one kind of CPU."""
        raise TypeError(
            "a frozen model is for the machine that it was made on; save the model that it was made from with "
            "edgekern.save, and freeze it again where it is loaded"
        )

    def extra_repr(self) -> str:
        """How many steps of each kind."""
        kinds = [step.kind for step in self.steps]
        names = {CONV2D: "convolutions", ADD: "sums", MAX_POOL: "poolings"}
        return ", ".join(f"{kinds.count(kind)} {name}" for kind, name in names.items() if kind in kinds)


def _code_of(layer: NativeConv2d) -> int:
    return ops.FLOATS[str(layer.dtype).removeprefix("torch.")]


def _as_integers(given: Range) -> tuple[int, int]:
    scale, zero_point = given
    return struct.unpack("<I", struct.pack("<f", scale))[0], zero_point
