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
class Float32(Scheme):
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

    channels: int | str = MEASURED
    rows: tuple[int, ...] | int = (1, 16, 128)

    def __post_init__(self) -> None:
        if self.channels != MEASURED and (type(self.channels) is not int or self.channels not in F32_CHANNELS):
            known = ", ".join(map(str, F32_CHANNELS))
            raise ValueError(f"Float32: channels must be {MEASURED!r} or one of {known}; got {self.channels!r}")
        object.__setattr__(self, "rows", settled_rows(self.rows, "Float32"))
