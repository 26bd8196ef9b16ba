"""Checks of options that several schemes have. Each error names the scheme, the option, and what was expected."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any


def check_choice(name: str, value: object, known: tuple[str, ...], scheme: str) -> None:
    """ValueError unless ``value`` is one of ``known``."""
    if value not in known:
        raise ValueError(f"{scheme}: unknown {name} {value!r}; this version knows {', '.join(known)}")


def check_number(name: str, value: object, most: float, scheme: str) -> None:
    """TypeError unless ``value`` is a number, ValueError unless it is finite and 0 to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{scheme}: {name} must be a number, got {kind_of(value)}")
    if not 0 <= value <= most or math.isinf(value):
        raise ValueError(f"{scheme}: {name} must be {'0 or more' if math.isinf(most) else '0 to 1'}, got {value}")


def check_count(name: str, value: object, least: int, scheme: str) -> None:
    """TypeError unless ``value`` is an int, ValueError unless it is ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{scheme}: {name} must be an int, got {kind_of(value)}")
    if value < least:
        raise ValueError(f"{scheme}: {name} must be {least} or more, got {value}")


def settled_rows(given: object, scheme: str) -> tuple[int, ...]:
    """Numbers of rows, rising, from one or several."""
    rows = (given,) if isinstance(given, int) else given
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise TypeError(f"{scheme}: rows must be numbers of rows, as (1, 128), or one of them; got {given!r}")
    for count in rows:
        check_count("rows", count, 1, scheme)
    return tuple(sorted(set(rows)))


def from_options(kind: type[Any], options: object, owner: str) -> Any:
    """An object of a dataclass, from a table of what it is made with.

    Raises:
        TypeError: no table, or an option of another type.
        ValueError: an option that there is not, one that is missing, or a value out of range.
    """
    if not isinstance(options, Mapping):
        raise TypeError(f"{owner}: expected a table of options, got {kind_of(options)}")
    check_options(kind, options, owner)
    return kind(**options)


def check_options(kind: type[Any], options: Mapping[str, Any], owner: str) -> None:
    """ValueError for options that a dataclass has not, or that it needs and are not there."""
    fields = dataclasses.fields(kind)
    known = [field.name for field in fields]
    if unknown := sorted(options.keys() - set(known)):
        said = ", ".join(map(repr, unknown))
        raise ValueError(f"{owner} has no option {said}; it has {', '.join(known)}")
    needed = [field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if name not in options]:
        raise ValueError(f"{owner} needs {' and '.join(missing)}")


def kind_of(value: object) -> str:
    """What ``value`` is, for a message."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
