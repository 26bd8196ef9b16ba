"""How energy is shown: in cells of tables, and in the line below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def joules_text(joules: float | None) -> str:
    """A cell; a dash for what was not measured."""
    return "-" if joules is None else f"{joules:.3g}"


def energy_note(energy: Mapping[str, Any]) -> str:
    """One line on the joules of a result: what they are of, or why there are none."""
    of = f"J by {energy['source']}, {energy['scope']}; of the whole machine, others' work included"
    return energy["why_none"] or of
