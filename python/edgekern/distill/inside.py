"""What ``Distiller`` compares inside of student and teacher: outputs of layers, and attention maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.config.checks import check_choice, check_number
from edgekern.distill.cached import CachedLogits
from edgekern.distill.errors import DistillError
from edgekern.distill.features import HIDDEN_LOSSES, attention_distance, hidden_distance, make_projection
from edgekern.distill.outputs import attentions_of
from edgekern.distill.teachers import Teacher


@dataclass(frozen=True)
class Hidden:
    """Layers of the student that shall give what layers of a teacher give.

    Attributes:
        layers: names of the student's modules, and for each that of a teacher's: ``map_layers(student, teacher)`` has
            blocks at the same depth. Compared is the first tensor that they return.
        weight: of the mean over these layers.
        kind: ``"squarehead"``, ``"mse"`` or ``"cosine"``: see :func:`edgekern.distill.features.hidden_distance`.
        teacher: which, where there are several.
    """

    layers: Mapping[str, str]
    weight: float = 1.0
    kind: str = "squarehead"
    teacher: int = 0

    def __post_init__(self) -> None:
        _check_layers("Hidden", self.layers, str)
        check_number("weight", self.weight, math.inf, "Hidden")
        check_choice("kind", self.kind, HIDDEN_LOSSES, "Hidden")

    def projections(self, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> nn.ModuleDict:
        """What brings the student's layers to their teacher's widths, by their place among ``layers``.

        Raises:
            DistillError: outputs of shapes that no projection brings together.
        """
        made = nn.ModuleDict()
        for i, (name, other) in enumerate(self.layers.items()):
            try:
                projection = make_projection(found[name], wanted[other])
            except (ValueError, KeyError) as error:
                raise DistillError(f"Hidden: {name!r} and {other!r} do not go together: {error}") from None
            if projection is not None:
                made[str(i)] = projection
        return made

    def distance(
        self, projections: nn.ModuleDict, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], mask: Tensor | None
    ) -> Tensor:
        """How far the layers are apart, a scalar, without weight."""
        distances = []
        for i, (mine, theirs) in enumerate(self.layers.items()):
            features = projections[str(i)](found[mine]) if str(i) in projections else found[mine]
            distances.append(hidden_distance(self.kind, features, wanted[theirs], mask))
        return torch.stack(distances).mean()


@dataclass(frozen=True)
class Attention:
    """Attention maps of the student that shall be those of a teacher.

    Attributes:
        layers: numbers of the student's layers, and for each that of a teacher's.
        weight: of the mean over these layers.
        teacher: which, where there are several.
    """

    layers: Mapping[int, int]
    weight: float = 1.0
    teacher: int = 0

    def __post_init__(self) -> None:
        _check_layers("Attention", self.layers, int)
        check_number("weight", self.weight, math.inf, "Attention")

    def distance(self, output: object, taught: object, mask: Tensor | None) -> Tensor:
        """How far the maps in two models' outputs are apart, a scalar, without weight.

        Raises:
            DistillError: an output without them.
        """
        return torch.stack(
            [
                attention_distance(
                    attentions_of(output, mine, "student"), attentions_of(taught, theirs, "teacher"), mask
                )
                for mine, theirs in self.layers.items()
            ]
        ).mean()


def check_inside(
    hidden: Hidden | None, attention: Attention | None, student: nn.Module, teachers: Sequence[Teacher], example: Any
) -> None:
    """DistillError unless these models have what is to be compared, and there is an example of a batch."""
    for part in (hidden, attention):
        if part is None:
            continue
        name = type(part).__name__
        if not 0 <= part.teacher < len(teachers):
            raise DistillError(f"{name}: teacher {part.teacher} is none of the {len(teachers)}")
        if isinstance(teachers[part.teacher], CachedLogits):
            raise DistillError(f"{name}: cached logits hold nothing of what is inside a teacher")
        if example is None:
            raise DistillError(f"example_inputs: {name} needs a batch, to see what shapes layers give")
    if hidden is not None:
        teacher = teachers[hidden.teacher]
        assert isinstance(teacher, nn.Module)
        for whose, model, names in (("student", student, hidden.layers), ("teacher", teacher, hidden.layers.values())):
            known = dict(model.named_modules(remove_duplicate=False))
            for layer in names:
                if layer not in known:
                    raise DistillError(f"Hidden: the {whose} has no module {layer!r}")


def _check_layers(owner: str, layers: object, kind: type) -> None:
    pairs = [*layers.items()] if isinstance(layers, Mapping) else []
    if not pairs or not all(isinstance(each, kind) for pair in pairs for each in pair):
        raise TypeError(f"{owner}: layers must be a mapping of {kind.__name__} to {kind.__name__}, got {layers!r}")
