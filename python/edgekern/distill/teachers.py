"""The teachers of a ``Distiller``: checked, weighed, and converted where that was asked for."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from edgekern.config import Config
from edgekern.config.checks import kind_of
from edgekern.convert import convert_
from edgekern.distill.cached import CachedLogits
from edgekern.distill.errors import DistillError

Teacher = nn.Module | CachedLogits


def checked_teachers(student: object, given: Any) -> list[Teacher]:
    """The teachers as a list.

    Raises:
        TypeError: student or teachers of another type.
        DistillError: no teachers, or the student among them.
    """
    teachers = [given] if isinstance(given, nn.Module | CachedLogits) else list(given)
    if not isinstance(student, nn.Module):
        raise TypeError(f"student: expected a torch.nn.Module, got {kind_of(student)}")
    for teacher in teachers:
        if not isinstance(teacher, nn.Module | CachedLogits):
            raise TypeError(f"teachers: expected a torch.nn.Module or CachedLogits, got {kind_of(teacher)}")
        if teacher is student:
            raise DistillError("teachers: the student cannot teach itself; student_from(teacher, ...) makes another")
    if not teachers:
        raise DistillError("teachers: expected one at least")
    return teachers


def settled_weights(given: Sequence[float] | None, count: int) -> list[float]:
    """A weight for each teacher, 1 in sum.

    Raises:
        DistillError: not as many as teachers, or numbers that are no weights.
    """
    weights = [1.0] * count if given is None else list(given)
    if len(weights) != count or min(weights) < 0 or not math.isfinite(sum(weights)) or sum(weights) == 0:
        raise DistillError(f"teacher_weights: expected {count} numbers, none negative and not all 0; got {given}")
    return [weight / sum(weights) for weight in weights]


def converted(teachers: Sequence[Teacher], config: Config | None) -> tuple[Teacher, ...]:
    """Copies of the models, converted; without a configuration, the teachers themselves.

    Raises:
        ConvertError: a model cannot be converted.
    """
    if config is None:
        return tuple(teachers)
    found: list[Teacher] = []
    for teacher in teachers:
        made = teacher
        if isinstance(teacher, nn.Module):
            made = copy.deepcopy(teacher)
            convert_(made, config)
        found.append(made)
    return tuple(found)
