"""The schemes of ``convert_``: what a layer's weights are stored and multiplied as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgekern.config.checks import check_choice, settled_rows
from edgekern.config.scheme import MEASURED, Scheme
from edgekern.kernels import F32_CHANNELS, FORMS


@dataclass(frozen=True, repr=False)
class Int8(Scheme):
    """Eight-bit weights and activations (W8A8), nothing to calibrate.

    Weights are signed, symmetric, with one float32 scale per output channel. Activations are quantised while the layer
    runs, each row (token) with its own scale and zero point. Sums are exact int32; results have the dtype of the input.

    Pruned weights stay zero. Whether they make a layer faster depends on the mask and on the CPU, so by default the
    forms that weights can be packed in are measured for each pruned layer, and a sparse form is taken when it is faster
    on the whole, at none of ``rows`` slower than the dense form, and not larger.

    Attributes:
        form: ``"measured"``, or a form: a key of :data:`edgekern.kernels.FORMS`.
        rows: numbers of rows (tokens) of a call to measure at: what the model will be called with.
        packings: 1, or 2 for two forms of the weights in memory where that is faster: one for few rows, one for many.
    """

    format: ClassVar[str] = "int8"
    rounds: ClassVar[bool] = True

    form: str = MEASURED
    rows: tuple[int, ...] | int = (1, 16, 128)
    packings: int = 1

    def __post_init__(self) -> None:
        check_choice("form", self.form, (MEASURED, *FORMS), "Int8")
        object.__setattr__(self, "rows", settled_rows(self.rows, "Int8"))
        if self.packings not in (1, 2) or isinstance(self.packings, bool):
            raise ValueError(f"Int8: packings must be 1 or 2, got {self.packings!r}")


@dataclass(frozen=True, repr=False)
class _Floats(Scheme):
    """What the schemes of pruned weights that stay floats have in common."""

    channels: int | str = MEASURED
    rows: tuple[int, ...] | int = (1, 16, 128)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.channels != MEASURED and (type(self.channels) is not int or self.channels not in F32_CHANNELS):
            known = ", ".join(map(str, F32_CHANNELS))
            raise ValueError(f"{name}: channels must be {MEASURED!r} or one of {known}; got {self.channels!r}")
        object.__setattr__(self, "rows", settled_rows(self.rows, name))


@dataclass(frozen=True, repr=False)
class Float32(_Floats):
    """Pruned weights that stay floats, packed without their zeros.

    For models that are not to be quantised: no weight and no activation is rounded, and sums are float32. A layer is
    packed when that is faster on the whole, at none of ``rows`` slower than PyTorch's own dense layer, and not larger;
    any other stays the nn.Linear it is, and the report says why. Float16 and bfloat16 weights are packed as float32.

    Attributes:
        channels: ``"measured"``, or 1, 2, 4 or 8: output channels of a block, which is kept when any of its weights is
            not zero. 1 keeps the fewest weights; more are faster where the zeros come in blocks of that height. A
            number is taken without measuring, where it is not larger than the dense layer.
        rows: numbers of rows (tokens) of a call to measure at: what the model will be called with.
    """

    format: ClassVar[str] = "f32"


@dataclass(frozen=True, repr=False)
class Float16(_Floats):
    """Pruned weights as float16, packed without their zeros: half the memory of ``Float32``, and rounded.

    A weight becomes a float16 times a power of two of its output channel, which changes it by at most 2^-11 of itself,
    or 2^-25 of the channel's largest where that is more; those of float16 and bfloat16 models hardly ever change. Sums
    are float32. On ARM from ARMv8.2 on (:func:`edgekern.kernels.f16_halves`) activations are rounded to float16 too,
    and sums of up to 64 products are float16: twice as many products an instruction, for errors smaller than those of
    multiplying in bfloat16. What is packed, and what stays the nn.Linear it is, is settled as for ``Float32``.

    Attributes:
        channels: as in ``Float32``.
        rows: likewise.
    """

    format: ClassVar[str] = "f16"
    rounds: ClassVar[bool] = True
