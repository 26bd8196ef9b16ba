"""The schemes of ``convert_``: what a layer's weights are stored and multiplied as."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from edgekern.config.checks import check_choice, check_number, kind_of, settled_rows
from edgekern.config.scheme import MEASURED, Scheme
from edgekern.kernels import F32_CHANNELS, FORMS, INT4_CLIPS, INT4_FORMS, INT4_GROUP_SIZES

DYNAMIC, STATIC, FLOAT = "dynamic", "static", "float"
"""Activations that are rounded by each row's own range, by one range for all rows, and not at all."""
RANGES = ("minmax", "percentile", "mse")
"""How that one range is found."""
_PERCENTILE = 99.99


@dataclass(frozen=True, repr=False)
class Int8(Scheme):
    """Eight-bit weights and activations (W8A8); nothing to calibrate, unless ranges of activations are to be static.

    Weights are signed, symmetric, with one float32 scale per output channel. Activations are quantised while the layer
    runs, each row (token), or each image of a convolution, with its own scale and zero point, or all with one that was
    found from calibration data. Sums are exact int32; results have the dtype of the input.

    Pruned weights stay zero. Whether they make a layer faster depends on the mask and on the CPU, so by default the
    forms that weights can be packed in are measured for each pruned layer, and a sparse form is taken when it is faster
    on the whole, at none of ``rows`` slower than the dense form, and not larger. Convolutions are measured with one
    image, of the size that ``convert_(..., data=...)`` brings or else a guess; depthwise ones are always dense.

    Attributes:
        form: ``"measured"``, or a form: a key of :data:`edgekern.kernels.FORMS`.
        rows: numbers of rows (tokens) of a call to measure at: what the model will be called with.
        packings: 1, or 2 for two forms of the weights in memory where that is faster: one for few rows, one for many.
        activations: ``"dynamic"``: each row is rounded by its own range, found while the layer runs. ``"static"``: all
            by one range, which ``convert_(..., data=...)`` finds. That saves a look through the rows at every call, and
            costs accuracy where rows differ in size; what lies beyond the range saturates. ``"float"``: not at all, for
            layers whose activations do not bear rounding: weights are made floats while they are multiplied, and sums
            are float32. As fast where reading weights takes the time, with few rows; with many it is a float32 layer's
            speed. Weights are then packed in the dense form, pruned or not. Convolutions are left alone.
        ranges: how a static range is found. ``"minmax"`` covers all values of the data. ``"percentile"`` covers
            ``percentile`` percent of them and leaves out as many at either end (Wu et al. 2020, arXiv 2004.09602).
            ``"mse"`` is the range of the lowest expected squared error: a twelfth of the step's square for a value
            inside that does not become 0, the square of the distance for one outside (Banner et al. 2019, arXiv
            1810.05723; searched over a grid as in Nagel et al. 2021, arXiv 2106.08295).
        percentile: of the values, for ``ranges="percentile"``: above 50, up to 100.

    Raises:
        TypeError: an option of another type.
        ValueError: a value that an option does not take, or options that do not go together.
    """

    format: ClassVar[str] = "int8"
    rounds: ClassVar[bool] = True

    form: str = MEASURED
    rows: tuple[int, ...] | int = (1, 16, 128)
    packings: int = 1
    activations: str = DYNAMIC
    ranges: str = "minmax"
    percentile: float = _PERCENTILE

    def __post_init__(self) -> None:
        check_choice("form", self.form, (MEASURED, *FORMS), "Int8")
        _check_activations(self.activations, (DYNAMIC, STATIC, FLOAT), self.form, "Int8")
        object.__setattr__(self, "rows", settled_rows(self.rows, "Int8"))
        if self.packings not in (1, 2) or isinstance(self.packings, bool):
            raise ValueError(f"Int8: packings must be 1 or 2, got {self.packings!r}")
        if self.packings == 2 and self.activations == FLOAT:
            raise ValueError(
                "Int8: packings=2 is for activations that are rounded; with 'float' there is one form to pack"
            )
        _check_ranges(self, "Int8")

    @property
    def needs_data(self) -> bool:
        """Whether ranges are to be found from calibration data."""
        return self.activations == STATIC


@dataclass(frozen=True, repr=False)
class Int4(Scheme):
    """Four-bit weights and eight-bit activations (W4A8); nothing to calibrate, unless ranges are to be static.

    Half the bytes of :class:`Int8`, which counts where reading weights takes the time, at a larger rounding error.
    Neighbouring input features of an output channel share a float16 scale; sums over such a group are exact int32, and
    groups are added up in float32. Activations are quantised as by :class:`Int8`; results have the dtype of the input.

    Weights that lie on a grid of such values already, as those of a dequantised layer or of ``Prune(joint=Int4())`` do,
    keep their values. Pruned weights stay zero, and forms are chosen as :class:`Int8` chooses them.

    Of a convolution the input features are what a window meets: its rows, their pixels, and of these the channels of a
    group, in that order. Its form is the dense one unless another is named. Depthwise convolutions, whose windows are
    shorter than most groups, are left alone: :class:`Int8` has a kernel for them.

    Attributes:
        group_size: 32, 64 or 128 input features that share a scale. Fewer round less and take more bytes: 4.75, 4.38 or
            4.19 bits a weight, or 4.5, 4.25 and 4.13 when symmetric. The last group of a row may be shorter.
        symmetric: whether the 16 values of every group lie around zero. False gives each group a zero point, so that
            all 16 serve weights that are not centred, which rounds less. True takes a little less time, where weights
            are packed without their zeros.
        form: ``"measured"``, or a form: a key of :data:`edgekern.kernels.INT4_FORMS`.
        rows: numbers of rows (tokens) of a call to measure at: what the model will be called with.
        clip: ``"none"`` has the 16 values of a group cover all of its weights. ``"mse"`` narrows the range where that
            lowers the squared error of the group, and moves the few weights outside in; no error gets higher. ``"hqq"``
            does so for the sum of |error|^(3/4), which lets few weights be far off for the sake of the others, by
            half-quadratic steps on the scale and zero point (Badri and Shaji 2023); when ``symmetric``, on the scale
            alone. What either does to the model's own error is another matter: measure it.
        activations: as in :class:`Int8`. ``"float"`` is for linear layers, ``"static"`` for convolutions: each leaves
            the others alone.
        ranges: for static ones, as in :class:`Int8`.
        percentile: likewise.

    Raises:
        TypeError: an option of another type.
        ValueError: a value that an option does not take, or options that do not go together.
    """

    format: ClassVar[str] = "int4"
    rounds: ClassVar[bool] = True

    group_size: int = 128
    symmetric: bool = False
    form: str = MEASURED
    rows: tuple[int, ...] | int = (1, 16, 128)
    clip: str = "none"
    activations: str = DYNAMIC
    ranges: str = "minmax"
    percentile: float = _PERCENTILE

    def __post_init__(self) -> None:
        if type(self.group_size) is not int or self.group_size not in INT4_GROUP_SIZES:
            known = ", ".join(map(str, INT4_GROUP_SIZES))
            raise ValueError(f"Int4: group_size must be one of {known}; got {self.group_size!r}")
        if not isinstance(self.symmetric, bool):
            raise TypeError(f"Int4: symmetric must be a bool, got {kind_of(self.symmetric)}")
        check_choice("form", self.form, (MEASURED, *INT4_FORMS), "Int4")
        object.__setattr__(self, "rows", settled_rows(self.rows, "Int4"))
        check_choice("clip", self.clip, tuple(INT4_CLIPS), "Int4")
        _check_activations(self.activations, (DYNAMIC, STATIC, FLOAT), self.form, "Int4")
        _check_ranges(self, "Int4")

    @property
    def needs_data(self) -> bool:
        """Whether ranges are to be found from calibration data."""
        return self.activations == STATIC


def _check_activations(activations: str, known: tuple[str, ...], form: str, scheme: str) -> None:
    """ValueError unless these activations are known, and run on weights of this form."""
    check_choice("activations", activations, known, scheme)
    if activations == FLOAT and form not in (MEASURED, "dense"):
        raise ValueError(f"{scheme}: activations='float' needs the dense form, got form={form!r}; leave form out")


def _check_ranges(scheme: Int8 | Int4, name: str) -> None:
    """ValueError for options of ranges that cannot be, or that nobody would look for."""
    check_choice("ranges", scheme.ranges, RANGES, name)
    check_number("percentile", scheme.percentile, math.inf, name)
    if not 50 < scheme.percentile <= 100:
        raise ValueError(f"{name}: percentile must be above 50 and at most 100, got {scheme.percentile}")
    if scheme.activations != STATIC and scheme.ranges != "minmax":
        raise ValueError(f"{name}: ranges={scheme.ranges!r} is of activations='static', not {scheme.activations!r}")
    if scheme.ranges != "percentile" and scheme.percentile != _PERCENTILE:
        raise ValueError(f"{name}: percentile={scheme.percentile} is of ranges='percentile', not {scheme.ranges!r}")


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

    For models that are not to be quantised: no weight and no activation is rounded, and sums are float32. A linear
    layer is packed when that is faster on the whole, at none of ``rows`` slower than PyTorch's own dense layer, and not
    larger; a convolution when it is so with one image, of the size that ``convert_(..., data=...)`` brings or else a
    guess. Any other stays the nn.Linear or nn.Conv2d it is, as depthwise convolutions do, and the report says why.
    Float16 and bfloat16 weights are packed as float32.

    Attributes:
        channels: ``"measured"``, or 1, 2, 4 or 8: output channels of a block, which is kept when any of its weights is
            not zero. 1 keeps the fewest weights; more are faster where the zeros come in blocks of that height. A
            number is taken without measuring, where it is not larger than the dense layer.
        rows: numbers of rows (tokens) of a call to measure linear layers at: what the model will be called with.
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
    Convolutions are left alone.

    Attributes:
        channels: as in ``Float32``.
        rows: likewise.
    """

    format: ClassVar[str] = "f16"
    rounds: ClassVar[bool] = True
