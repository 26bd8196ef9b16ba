"""``Recipe``: the stages of ``compress``, in order, and the TOML file that holds them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekern.config.checks import check_count, from_options, kind_of
from edgekern.config.stage import Stage
from edgekern.config.stages import ConvertStage, EvaluateStage, stage_from_dict
from edgekern.config.toml_file import read_toml


@dataclass(frozen=True)
class Text:
    """How the command line makes batches of texts; what is called from Python brings its own.

    Attributes:
        tokens: of a window that a language model reads, or at most of a text that an encoder reads.
        batch: windows or texts of a batch to train with.
        calibration: batches to calibrate with.
        evaluation: windows to measure perplexity on.
        seed: of the order in which training goes through the text.

    Raises:
        TypeError, ValueError: an option of another type, or out of range.
    """

    tokens: int = 512
    batch: int = 4
    calibration: int = 8
    evaluation: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("tokens", 2), ("batch", 1), ("calibration", 1), ("evaluation", 1), ("seed", 0)):
            check_count(name, getattr(self, name), least, "text")


@dataclass(frozen=True)
class Recipe:
    """What ``compress`` does, stage by stage.

    The first evaluation of a run measures the model that it began with: where no stage before all others does, one is
    put there, with the options of the first that there is.

    Attributes:
        name: of the recipe.
        stages: in order.
        text: how the command line cuts texts.

    Raises:
        TypeError: an argument of another type.
        ValueError: no stages, two of one name, or an order that cannot work.
    """

    name: str
    stages: tuple[Stage, ...]
    text: Text = Text()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"Recipe: name must be a string that is not empty, got {self.name!r}")
        stages = self.stages
        if not isinstance(stages, Sequence) or not all(isinstance(each, Stage) for each in stages):
            raise TypeError(f"Recipe: stages must be a list of stages, as ConvertStage(scheme=Int8()); got {stages!r}")
        if not stages:
            raise ValueError("Recipe: no stages; expected one at least, as a table [[stage]]")
        if not isinstance(self.text, Text):
            raise TypeError(f"Recipe: text must be Text(...), got {kind_of(self.text)}")
        object.__setattr__(self, "stages", _named(_begun_with_evaluation(tuple(stages))))
        _check_order(self.stages)

    @property
    def trains(self) -> bool:
        """Whether any stage does."""
        return any(stage.trains for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """All of it, with all defaults, as data for JSON or TOML."""
        stages = [stage.to_dict() for stage in self.stages]
        return {"name": self.name, "text": dataclasses.asdict(self.text), "stage": stages}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The inverse of ``to_dict``.

        Raises:
            TypeError: no mapping.
            ValueError: a key, kind or option that there is not, one that is missing, or a value that it does not take;
                the message says in which stage.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"Recipe: expected a mapping, got {kind_of(data)}")
        if unknown := sorted(data.keys() - {"name", "text", "stage"}):
            raise ValueError(f"there is no key {unknown[0]!r}; a recipe has name, text and tables [[stage]]")
        given = data.get("stage", [])
        if not isinstance(given, list):
            raise ValueError(f"stage: expected a list of tables, [[stage]], got {kind_of(given)}")
        stages = tuple(_read_stage(number, table) for number, table in enumerate(given, 1))
        try:
            return cls(data.get("name", "unnamed"), stages, from_options(Text, data.get("text", {}), "text"))
        except TypeError as error:
            raise ValueError(str(error)) from None


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in a TOML file.

    Raises:
        ImportError: Python is older than 3.11.
        OSError: the file cannot be read.
        ValueError: it is no TOML, or no recipe; the message names the file.
    """
    try:
        data = read_toml(path)
        data.setdefault("name", Path(path).stem)
        return Recipe.from_dict(data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def write_recipe(recipe: Recipe, path: str | os.PathLike[str]) -> None:
    """Writes what :func:`read_recipe` reads, with all defaults.

    Raises:
        ImportError: the package tomli-w is not installed.
        OSError: the file cannot be written.
    """
    try:
        import tomli_w
    except ModuleNotFoundError:
        raise ImportError("writing TOML files needs the package tomli-w; run: pip install tomli-w") from None
    Path(path).write_text(tomli_w.dumps(recipe.to_dict()), encoding="utf-8")


def _read_stage(number: int, table: object) -> Stage:
    try:
        return stage_from_dict(table)
    except (TypeError, ValueError) as error:
        raise ValueError(f"[[stage]] number {number}: {error}") from None


def _begun_with_evaluation(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    first = next((stage for stage in stages if isinstance(stage, EvaluateStage)), None)
    if first is None or first is stages[0]:
        return stages
    taken = {stage.name for stage in stages}
    return (dataclasses.replace(first, name=_free("before", taken)), *stages)


def _named(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The stages, each with a name of its own."""
    taken = {stage.name for stage in stages if stage.name}
    if len(taken) < sum(bool(stage.name) for stage in stages):
        names = [stage.name for stage in stages if stage.name]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Recipe: two stages are called {twice!r}; each needs a name of its own")
    named = []
    for stage in stages:
        name = stage.name or _free(stage.kind, taken)
        taken.add(name)
        named.append(stage if stage.name else dataclasses.replace(stage, name=name))
    return tuple(named)


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken."""
    number = 1
    while (found := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return found


def _check_order(stages: tuple[Stage, ...]) -> None:
    converted = prepared = ""
    for stage in stages:
        if converted and stage.changes_model and not isinstance(stage, ConvertStage):
            raise ValueError(
                f"Recipe: stage {stage.name!r} comes after {converted!r}, but converted layers neither train nor are "
                "pruned or rounded; convert after it"
            )
        if isinstance(stage, ConvertStage):
            if stage.scheme is None and not prepared:
                raise ValueError(
                    f"Recipe: stage {stage.name!r} has no scheme, and no stage before it rounds or trains for one; "
                    "give it one, as scheme = 'int8'"
                )
            converted = stage.name
        prepared = stage.name if stage.prepares else prepared
