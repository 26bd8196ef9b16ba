"""What all schemes have in common."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

MEASURED = "measured"
"""In place of a form: the one that measures best on this CPU."""


class Scheme:
    """Base of every scheme: what shall become of one layer."""

    format: ClassVar[str]
    carried_out_by: ClassVar[str] = "convert_"
    """The function that takes it."""
    rounds: ClassVar[bool] = False
    """Whether weights come out with other values."""

    @property
    def needs_data(self) -> bool:
        """Whether it takes calibration data to carry this out."""
        return False

    def to_dict(self, *, whole: bool = False) -> dict[str, Any]:
        """This scheme as JSON-ready data: its format, and the options that are not their defaults.

        ``whole`` has those at their defaults too, but for those that are None.
        """
        options = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default or (whole and value is not None):
                options[field.name] = _plain(value, whole)
        return {"format": self.format, **options}

    def __repr__(self) -> str:
        """As it would be written: options that have their default are left out."""
        options = [(field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        written = ", ".join(f"{name}={value!r}" for name, value, default in options if value != default)
        return f"{type(self).__name__}({written})"


def _plain(value: object, whole: bool) -> object:
    if isinstance(value, Scheme):
        return value.to_dict(whole=whole)
    return list(value) if isinstance(value, tuple) else value
