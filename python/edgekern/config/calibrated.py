"""The schemes of ``quantize_``: what weights are rounded to, and what is done so that it costs the model less."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from edgekern.config.checks import check_count, check_number, kind_of
from edgekern.config.formats import FLOAT, Int4, Int8
from edgekern.config.scheme import Scheme

_INT4, _INT8 = Int4(), Int8()


class Calibrated(Scheme):
    """Base of the schemes that look at what layers are given."""

    carried_out_by: ClassVar[str] = "quantize_"
    rounds: ClassVar[bool] = True

    to: Int4 | Int8 | GPTQ
    bias_correction: bool

    @property
    def needs_data(self) -> bool:
        """Always."""
        return True

    @property
    def target(self) -> Int4 | Int8:
        """What the layer shall be converted to."""
        return self.to.to if isinstance(self.to, GPTQ) else self.to

    @property
    def gptq(self) -> GPTQ | None:
        """How the others make up for each weight that is rounded; None when all go to the nearest value."""
        return self.to if isinstance(self.to, GPTQ) else None

    @property
    def corrects_bias(self) -> bool:
        """Whether the mean of the outputs' error is taken off the bias."""
        return self.bias_correction or (self.gptq is not None and self.gptq.bias_correction)

    def _check_bool(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, bool):
            raise TypeError(f"{type(self).__name__}: {name} must be a bool, got {kind_of(value)}")


@dataclass(frozen=True, repr=False)
class GPTQ(Calibrated):
    """Weights rounded one by one, those of a row not yet rounded making up for it, for ``quantize_``.

    The method is GPTQ (Frantar et al. 2022, arXiv 2210.17323). A convolution's inputs are its windows, and a row of
    weights is what meets one; each of its groups has inputs of its own. What comes out are floats of the values that
    converting to ``to`` keeps as they are.

    Attributes:
        to: ``Int4(...)`` or ``Int8()``: what the layer shall be converted to. Of its options those count that decide
            about values: ``group_size``, ``symmetric`` and ``clip``.
        act_order: weights of the strongest inputs are rounded first, while the most others can still make up for it.
            The int4 groups stay those of neighbouring columns, and their levels are then settled before the first
            weight is rounded. False rounds from the first column to the last, and settles the levels of each group when
            its turn comes.
        damping: added to the Hessian's diagonal, as a share of its mean.
        bias_correction: the mean of the error of the layer's outputs, over the calibration data, is taken off its bias
            (Nagel et al. 2019, arXiv 1906.04721). A layer without a bias has none to correct, and the report says so.

    Raises:
        TypeError: an option of another type.
        ValueError: a damping that is negative or infinite.
    """

    format: ClassVar[str] = "gptq"

    to: Int4 | Int8 = _INT4
    act_order: bool = True
    damping: float = 0.01
    bias_correction: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.to, Int4 | Int8):
            raise TypeError(f"GPTQ: to must be Int4(...) or Int8(), got {kind_of(self.to)}")
        self._check_bool("act_order")
        self._check_bool("bias_correction")
        check_number("damping", self.damping, math.inf, "GPTQ")

    @property
    def gptq(self) -> GPTQ:
        """Itself."""
        return self


class Migrating(Calibrated):
    """Base of the schemes that scale a layer's input channels, before weights are rounded as ``to`` says."""

    def migrates_like(self, other: Scheme) -> bool:
        """Whether layers that share an input may have the one scheme and the other."""
        raise NotImplementedError

    def _check(self) -> None:
        if not isinstance(self.to, Int4 | Int8 | GPTQ):
            name = type(self).__name__
            raise TypeError(f"{name}: to must be Int4(...), Int8() or GPTQ(...), got {kind_of(self.to)}")
        self._check_bool("bias_correction")


@dataclass(frozen=True, repr=False)
class AWQ(Migrating):
    """Inputs that are strong on average get larger weights, whose rounding then weighs less, for ``quantize_``.

    The method is AWQ (Lin et al. 2023, arXiv 2306.00978). Input channel j of a linear layer is multiplied by s_j in its
    weights, and divided by s_j in what produces it, a norm or another layer, so that the float model computes the same.
    s is mean|x|^alpha. Of ``steps`` values of alpha, from 0 up to below 1, the one is taken that leaves the layers
    which share the input the lowest error, rounded to the nearest, activations too where ``to`` rounds those.

    Attributes:
        to: ``Int4(...)`` or ``Int8()`` has each weight go to the nearest value after that; ``GPTQ(...)`` has the others
            make up for it.
        steps: how many values of alpha are tried.
        bias_correction: as in ``GPTQ``.

    Raises:
        TypeError: an option of another type.
        ValueError: fewer steps than one.
    """

    format: ClassVar[str] = "awq"

    to: Int4 | Int8 | GPTQ = _INT4
    steps: int = 20
    bias_correction: bool = False

    def __post_init__(self) -> None:
        self._check()
        check_count("steps", self.steps, 1, "AWQ")

    def migrates_like(self, other: Scheme) -> bool:
        """Whether it is AWQ too, in as many steps."""
        return isinstance(other, AWQ) and other.steps == self.steps


@dataclass(frozen=True, repr=False)
class SmoothQuant(Migrating):
    """Input channels that stick out are made smaller and their weights larger, so that both round well.

    The method is SmoothQuant (Xiao et al. 2022, arXiv 2211.10438), for ``quantize_``. Input channel j of a linear layer
    is multiplied by s_j = max|x_j|^alpha / max|w_j|^(1 - alpha) in its weights, and divided by s_j in what produces it,
    a norm or another layer, so that the float model computes the same. It is for int8, whose activations suffer most
    from a channel that is much larger than the others.

    Attributes:
        to: as in ``AWQ``, with activations that are rounded.
        alpha: how much of what sticks out moves into the weights: 0 to 1.
        bias_correction: as in ``GPTQ``.

    Raises:
        TypeError: an option of another type.
        ValueError: an alpha beyond 0 to 1; activations that stay floats.
    """

    format: ClassVar[str] = "smoothquant"

    to: Int4 | Int8 | GPTQ = _INT8
    alpha: float = 0.5
    bias_correction: bool = False

    def __post_init__(self) -> None:
        self._check()
        if self.target.activations == FLOAT:
            raise ValueError(f"SmoothQuant: activations must be rounded, got to={self.to!r}; use AWQ or GPTQ")
        check_number("alpha", self.alpha, 1, "SmoothQuant")

    def migrates_like(self, other: Scheme) -> bool:
        """Whether it is SmoothQuant too, with the same alpha."""
        return isinstance(other, SmoothQuant) and other.alpha == self.alpha
