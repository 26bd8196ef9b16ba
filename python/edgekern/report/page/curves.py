"""What a training logged, as curves: the JSONL files of ``train/log.py``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ABOUT = ("step", "epoch", "gradient_norm", "lr", "evaluation")  # all others are parts of the loss


@dataclass(frozen=True)
class Curve:
    """A number over the steps of a training."""

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: float, value: Any) -> None:
        """Another point; a value that no axis has a place for is left out."""
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            self.steps.append(step)
            self.values.append(float(value))

    def thinned(self, most: int) -> Curve:
        """About ``most`` points, each the mean of as many that follow each other."""
        width = math.ceil(len(self.steps) / most)
        if width <= 1:
            return self
        starts = range(0, len(self.steps), width)
        return Curve(*([_mean(all_[i : i + width]) for i in starts] for all_ in (self.steps, self.values)))


@dataclass(frozen=True)
class Curves:
    """The curves of one training, by name."""

    losses: dict[str, Curve]
    """"loss" first, then its parts."""
    evaluations: dict[str, Curve]
    rate: Curve
    """The learning rate."""


def read_curves(path: Path) -> Curves:
    """Reads a log.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a line that is no log's; the message names file and line. An unfinished last line, as a killed
            process leaves behind, is passed over.
    """
    losses: dict[str, Curve] = {"loss": Curve()}
    evaluations: dict[str, Curve] = {}
    rate = Curve()
    for number, entry in _entries(path):
        step = entry.get("step")
        if isinstance(step, bool) or not isinstance(step, int):
            raise ValueError(f"{path}, line {number}: expected a whole number as step, got {json.dumps(step)}")
        found = entry.get("evaluation", {})
        if not isinstance(found, dict):
            raise ValueError(f"{path}, line {number}: expected evaluation to be an object, got {json.dumps(found)}")
        for name, value in found.items():
            evaluations.setdefault(name, Curve()).add(step, value)
        for name, value in entry.items():
            if name not in _ABOUT:
                losses.setdefault(name, Curve()).add(step, value)
        rate.add(step, entry.get("lr"))
    return Curves(_known(losses), _known(evaluations), rate)


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from None
            if not isinstance(entry, dict):
                raise ValueError(f"{path}, line {number}: expected an object, got {type(entry).__name__}")
            yield number, entry


def _known(curves: dict[str, Curve]) -> dict[str, Curve]:
    return {name: curve for name, curve in curves.items() if curve.steps}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
