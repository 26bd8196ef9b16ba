"""The scheme of ``quantize_``: what weights are rounded to, and how the others make up for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from edgekern.config.checks import check_number, kind_of
from edgekern.config.formats import Int4, Int8
from edgekern.config.scheme import Scheme

_INT4 = Int4()


@dataclass(frozen=True, repr=False)
class GPTQ(Scheme):
    """A linear layer's weights rounded one by one, those not yet rounded making up for it, for ``quantize_``.

    The method is GPTQ (Frantar et al. 2022, arXiv 2210.17323). What comes out are floats of the values that converting
    to ``to`` keeps as they are.

    Attributes:
        to: ``Int4(...)`` or ``Int8()``: what the layer shall be converted to. Of its options those count that decide
            about values: ``group_size``, ``symmetric`` and ``clip``.
        act_order: weights of the strongest inputs are rounded first, while the most others can still make up for it.
            The int4 groups stay those of neighbouring columns, and their levels are then settled before the first
            weight is rounded. False rounds from the first column to the last, and settles the levels of each group when
            its turn comes.
        damping: added to the Hessian's diagonal, as a share of its mean.

    Raises:
        TypeError: an option of another type.
        ValueError: a damping that is negative or infinite.
    """

    format: ClassVar[str] = "gptq"
    carried_out_by: ClassVar[str] = "quantize_"
    rounds: ClassVar[bool] = True

    to: Int4 | Int8 = _INT4
    act_order: bool = True
    damping: float = 0.01

    def __post_init__(self) -> None:
        if not isinstance(self.to, Int4 | Int8):
            raise TypeError(f"GPTQ: to must be Int4(...) or Int8(), got {kind_of(self.to)}")
        if not isinstance(self.act_order, bool):
            raise TypeError(f"GPTQ: act_order must be a bool, got {kind_of(self.act_order)}")
        check_number("damping", self.damping, math.inf, "GPTQ")
