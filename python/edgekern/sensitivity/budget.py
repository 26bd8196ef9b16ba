"""Budgets as users write them: an amount and a unit."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

BITS, BYTES, MS, ZEROS = "bits a weight", "bytes", "milliseconds", "zeros"

_UNITS: dict[str, tuple[str, float]] = {
    "bpw": (BITS, 1),
    "B": (BYTES, 1),
    **{f"{prefix}B": (BYTES, 1e3 ** (i + 1)) for i, prefix in enumerate("kMGT")},
    **{f"{prefix}iB": (BYTES, 1024.0 ** (i + 1)) for i, prefix in enumerate("KMGT")},
    "us": (MS, 1e-3),
    "ms": (MS, 1),
    "s": (MS, 1e3),
    "% zeros": (ZEROS, 1e-2),
}
"""What an amount is of, and how much one is, by the unit as it is shown. Read without regard to case and spaces."""

_READ = {name.lower().replace(" ", ""): name for name in _UNITS} | {"µs": "us", "μs": "us"}
_AMOUNT = re.compile(r"\s*(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*(\D*)")


@dataclass(frozen=True)
class Budget:
    """How much of something there may be; of zeros, how much there shall be."""

    amount: float
    """In bits a weight, bytes, milliseconds, or as a share of the weights."""
    unit: str
    """As it was written, with a key of the table of units."""

    @property
    def kind(self) -> str:
        """What it is of."""
        return _UNITS[self.unit][0]

    def show(self, amount: float) -> str:
        """An amount of the same kind, in the same unit."""
        return f"{amount / _UNITS[self.unit][1]:.4g}{'' if self.unit.startswith('%') else ' '}{self.unit}"

    def __str__(self) -> str:
        return self.show(self.amount)


def parse_budget(text: object) -> Budget:
    """What a string such as ``"4.5 bpw"``, ``"120 MB"``, ``"8 ms"`` or ``"60% zeros"`` says.

    Raises:
        TypeError: not a string.
        ValueError: no such amount or unit, or an amount out of range.
    """
    usual = "an amount and a unit, as '4.5 bpw', '120 MB', '8 ms' or '60% zeros'"
    if not isinstance(text, str):
        raise TypeError(f"budget: expected a string of {usual}; got {type(text).__name__}")
    found = _AMOUNT.fullmatch(text)
    unit = _READ.get(found[2].lower().replace(" ", "")) if found else None
    if found is None or unit is None:
        raise ValueError(f"budget: expected {usual}, of the units {', '.join(_UNITS)}; got {text!r}")
    kind, scale = _UNITS[unit]
    amount = float(found[1]) * scale
    if not math.isfinite(amount) or (kind == ZEROS and amount > 1):
        raise ValueError(f"budget: expected {'0 to 100% zeros' if kind == ZEROS else 'a finite amount'}; got {text!r}")
    return Budget(amount, unit)
