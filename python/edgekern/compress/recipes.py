"""The recipes that come along, by name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from edgekern.compress.errors import CompressError
from edgekern.config import Recipe, read_recipe

_FOLDER = Path(__file__).with_name("recipes")


def recipe_names() -> tuple[str, ...]:
    """Of all that come along."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def recipe_of(given: Recipe | str | os.PathLike[str]) -> Recipe:
    """A recipe as it is, by its name, or from a TOML file.

    Raises:
        TypeError: something else.
        CompressError: neither the name of one nor a file.
        ImportError: Python is older than 3.11, which cannot read TOML.
        ValueError: a file that holds no recipe.
    """
    if isinstance(given, Recipe):
        return given
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f"recipe: expected Recipe(...), a name or a TOML file; got {type(given).__name__}")
    names = recipe_names()
    if str(given) in names:
        return read_recipe(_FOLDER / f"{given}.toml")
    if Path(given).is_file():
        return read_recipe(given)
    close = difflib.get_close_matches(str(given), names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise CompressError(f"recipe: {given} is no file, and none of {', '.join(names)}{hint}")
