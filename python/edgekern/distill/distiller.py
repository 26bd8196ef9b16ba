"""``Distiller``: the loss of a student against one teacher or several, for ``train.fit`` or any other loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.calibration.observe import arguments, inference
from edgekern.config import Config
from edgekern.config.checks import check_choice, check_number, kind_of
from edgekern.convert import convert_
from edgekern.distill.cached import CachedLogits
from edgekern.distill.errors import DistillError
from edgekern.distill.features import HIDDEN_LOSSES, attention_distance, hidden_distance, make_projection, outputs_of
from edgekern.distill.logits import Target, labels_target, logits_loss
from edgekern.distill.outputs import attentions_of, logits_of

Teacher = nn.Module | CachedLogits


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


class Distiller(nn.Module):
    """Called as ``distiller(student, batch)``, it gives the loss, as "loss", and its parts.

    A batch is what the student is called with: a mapping with keyword arguments, a tuple or list with positional ones,
    or one argument. Labels are no arguments: "labels" of a mapping, the last of a tuple where ``hard`` is above 0. With
    ``CachedLogits`` the samples' numbers come along: "index" of a mapping, or behind all else in a tuple.

    Projections, where a student's layer is narrower than its teacher's, are parameters of this module: they are to be
    trained with the student's, as ``train.fit`` does, and thrown away in the end.

    Args:
        student: what will be trained; it is looked at and not kept.
        teachers: a model or ``CachedLogits``, or several. Models run in eval mode and without autograd.
        temperature: of the softmax over logits.
        soft: weight of the KL divergence from the teachers' probabilities, times temperature squared.
        hard: weight of the cross entropy with labels.
        hidden: layers inside, compared.
        attention: attention maps, compared.
        teacher_weights: of several teachers' KL divergences; equal when not given. Their sum is made 1.
        causal: a language model: labels are those of the next token, as of Hugging Face the same ids as the input.
        convert_teachers: what to convert copies of the teachers to, as ``Int8()``, for them to take less time.
        example_inputs: one batch; needed for ``hidden`` and ``attention``, whose shapes it shows.

    Raises:
        TypeError: an argument of another type.
        DistillError: nothing to learn from is asked for; layers that there are not, or of shapes that no projection
            brings together; no ``example_inputs`` where they are needed.
        ValueError: a value out of range.
        ConvertError: a teacher cannot be converted.
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Teacher | Sequence[Teacher],
        *,
        temperature: float = 2.0,
        soft: float = 1.0,
        hard: float = 0.0,
        hidden: Hidden | None = None,
        attention: Attention | None = None,
        teacher_weights: Sequence[float] | None = None,
        causal: bool = False,
        convert_teachers: Config | None = None,
        example_inputs: Any = None,
    ) -> None:
        super().__init__()
        for name, value in (("temperature", temperature), ("soft", soft), ("hard", hard)):
            check_number(name, value, math.inf, "Distiller")
        if temperature == 0:
            raise ValueError("Distiller: temperature must be above 0")
        found = [teachers] if isinstance(teachers, nn.Module | CachedLogits) else list(teachers)
        _check_models(student, found)
        self.temperature, self.soft, self.hard, self.causal = temperature, soft, hard, causal
        self.hidden, self.attention = hidden, attention
        self._check_inside(student, found, example_inputs)
        self._weights = _settled_weights(teacher_weights, len(found))
        # In a tuple, so that they are no submodules: they are neither trained nor saved with the projections.
        self._teachers = tuple(_converted(found, convert_teachers))
        self.projections = nn.ModuleDict()
        if hidden is not None or attention is not None:
            self._look_inside(student, example_inputs)

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The teachers, converted where that was asked for."""
        return self._teachers

    def forward(self, student: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The loss of a batch, a scalar as "loss", and its parts without weights, as "soft", "hard" and so on.

        Raises:
            DistillError: labels or numbers of samples that are missing, or logits that do not go together.
        """
        inputs, labels, index = self._taken_apart(batch)
        names = self.hidden.layers.keys() if self.hidden else ()
        with outputs_of(student, names) as features:
            output = self._call(student, inputs)
        taught = self._teach(inputs)
        mask = _mask(inputs[1])
        parts: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        if self.soft or self.hard:
            losses.append(self._compare_logits(output, taught, labels, index, mask, parts))
        if self.hidden:
            wanted = taught[self.hidden.teacher][1]
            parts["hidden"] = self._compare_hidden(features, wanted, mask)
            losses.append(self.hidden.weight * parts["hidden"])
        if self.attention:
            parts["attention"] = self._compare_attention(output, taught[self.attention.teacher][0], mask)
            losses.append(self.attention.weight * parts["attention"])
        return {"loss": torch.stack(losses).sum(), **parts}

    # ------------------------------------------------------------------------------------------ what is compared

    def _compare_logits(
        self,
        output: object,
        taught: list[tuple[object, dict[str, Tensor]]],
        labels: Tensor | None,
        index: Tensor | None,
        mask: Tensor | None,
        parts: dict[str, Tensor],
    ) -> Tensor:
        logits = logits_of(output, "student")
        flat = logits.reshape(-1, logits.shape[-1])
        if labels is not None and self.causal:
            labels = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)  # of the next token
        if labels is not None and labels.shape != logits.shape[:-1]:
            raise DistillError(f"labels: expected shape {list(logits.shape[:-1])}, got {list(labels.shape)}")
        targets = []
        if self.soft:
            rows = torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
            if logits.ndim == 3 and labels is not None:
                rows = labels != -100
            elif logits.ndim == 3 and mask is not None and mask.shape == rows.shape:
                rows = mask
            for i, teacher in enumerate(self._teachers):
                weight = self.soft * self._weights[i]
                targets.append(self._target(weight, rows.reshape(-1), logits, teacher, taught[i][0], index))
        if self.hard:
            if labels is None:
                raise DistillError("batch: hard is above 0, and there are no labels in it")
            targets.append(labels_target(self.hard, labels.reshape(-1)))
        total, each = logits_loss(flat, targets)
        if self.soft:
            parts["soft"] = sum(w * loss for w, loss in zip(self._weights, each, strict=False))
        if self.hard:
            parts["hard"] = each[-1]
        return total

    def _target(
        self, weight: float, rows: Tensor, logits: Tensor, teacher: Teacher, output: object, index: Tensor | None
    ) -> Target:
        if not isinstance(teacher, CachedLogits):
            wanted = logits_of(output, "teacher")
            if wanted.shape != logits.shape:
                raise DistillError(
                    f"teacher: logits have shape {list(wanted.shape)}, the student's {list(logits.shape)}; they have "
                    "to know the same classes or vocabulary"
                )
            return Target(weight, self.temperature, rows, wanted.reshape(-1, wanted.shape[-1]))
        if index is None:
            raise DistillError("batch: CachedLogits need the samples' numbers, as 'index' or behind all else")
        values, indices = teacher.rows(index)
        if values.shape[:-1] != logits.shape[:-1] or teacher.classes != logits.shape[-1]:
            raise DistillError(
                f"teacher: cached logits have shape {[*values.shape[:-1], teacher.classes]}, the student's "
                f"{list(logits.shape)}"
            )
        k, device = values.shape[-1], logits.device
        return Target(
            weight, self.temperature, rows, values.reshape(-1, k).to(device), indices.reshape(-1, k).to(device)
        )

    def _compare_hidden(self, found: dict[str, Tensor], wanted: dict[str, Tensor], mask: Tensor | None) -> Tensor:
        assert self.hidden is not None
        distances = []
        for i, (mine, theirs) in enumerate(self.hidden.layers.items()):
            key = str(i)
            features = self.projections[key](found[mine]) if key in self.projections else found[mine]
            distances.append(hidden_distance(self.hidden.kind, features, wanted[theirs], mask))
        return torch.stack(distances).mean()

    def _compare_attention(self, output: object, taught: object, mask: Tensor | None) -> Tensor:
        assert self.attention is not None
        return torch.stack(
            [
                attention_distance(
                    attentions_of(output, mine, "student"), attentions_of(taught, theirs, "teacher"), mask
                )
                for mine, theirs in self.attention.layers.items()
            ]
        ).mean()

    # ------------------------------------------------------------------------------------------ running the models

    def _call(self, model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        asked = {"output_attentions": True} if self.attention else {}
        return model(*inputs[0], **inputs[1], **asked)

    def _teach(self, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> list[tuple[object, dict[str, Tensor]]]:
        """Of each teacher: its output, and what its layers give."""
        found: list[tuple[object, dict[str, Tensor]]] = []
        for i, teacher in enumerate(self._teachers):
            if isinstance(teacher, CachedLogits):
                found.append((None, {}))
                continue
            names = self.hidden.layers.values() if self.hidden and self.hidden.teacher == i else ()
            with inference(teacher), outputs_of(teacher, dict.fromkeys(names)) as features:
                found.append((self._call(teacher, inputs), features))
        return found

    def _taken_apart(self, batch: Any) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], Tensor | None, Tensor | None]:
        """Arguments, labels, numbers of samples."""
        args, kwargs = arguments(batch)
        cached = any(isinstance(teacher, CachedLogits) for teacher in self._teachers)
        if isinstance(batch, Mapping):
            return ((), kwargs), kwargs.pop("labels", None), kwargs.pop("index", None)
        rest = list(args)
        wanted = 1 + cached + bool(self.hard)
        if len(rest) < wanted:
            raise DistillError(f"batch: expected {wanted} tensors or more, inputs, labels and numbers; got {len(rest)}")
        index = rest.pop() if cached else None
        labels = rest.pop() if self.hard else None
        return (tuple(rest), {}), labels, index

    def _check_inside(self, student: nn.Module, teachers: list[Teacher], example_inputs: Any) -> None:
        if not (self.soft or self.hard or self.hidden or self.attention):
            raise DistillError("soft, hard, hidden, attention: expected at least one to learn from")
        for part in (self.hidden, self.attention):
            if part is None:
                continue
            name = type(part).__name__
            if not 0 <= part.teacher < len(teachers):
                raise DistillError(f"{name}: teacher {part.teacher} is none of the {len(teachers)}")
            if isinstance(teachers[part.teacher], CachedLogits):
                raise DistillError(f"{name}: cached logits hold nothing of what is inside a teacher")
            if example_inputs is None:
                raise DistillError(f"example_inputs: {name} needs a batch, to see what shapes layers give")
        if self.hidden is not None:
            teacher = teachers[self.hidden.teacher]
            assert isinstance(teacher, nn.Module)
            _check_modules("student", student, self.hidden.layers.keys())
            _check_modules("teacher", teacher, self.hidden.layers.values())

    def _look_inside(self, student: nn.Module, batch: Any) -> None:
        """Makes projections where widths differ, and finds out whether there are attention maps."""
        inputs, _, _ = self._taken_apart(batch)
        mine = list(self.hidden.layers) if self.hidden else []
        with inference(student), outputs_of(student, mine) as found:
            output = self._call(student, inputs)
        taught = self._teach(inputs)
        if self.attention is not None:
            self._compare_attention(output, taught[self.attention.teacher][0], None)
        if self.hidden is not None:
            for i, (name, other) in enumerate(self.hidden.layers.items()):
                try:
                    projection = make_projection(found[name], taught[self.hidden.teacher][1][other])
                except (ValueError, KeyError) as error:
                    raise DistillError(f"Hidden: {name!r} and {other!r} do not go together: {error}") from None
                if projection is not None:
                    self.projections[str(i)] = projection


def _check_layers(owner: str, layers: object, kind: type) -> None:
    pairs = [*layers.items()] if isinstance(layers, Mapping) else []
    if not pairs or not all(isinstance(each, kind) for pair in pairs for each in pair):
        raise TypeError(f"{owner}: layers must be a mapping of {kind.__name__} to {kind.__name__}, got {layers!r}")


def _check_modules(whose: str, model: nn.Module, names: Iterable[str]) -> None:
    known = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if name not in known:
            raise DistillError(f"Hidden: the {whose} has no module {name!r}")


def _check_models(student: object, teachers: list[Any]) -> None:
    if not isinstance(student, nn.Module):
        raise TypeError(f"student: expected a torch.nn.Module, got {kind_of(student)}")
    for teacher in teachers:
        if not isinstance(teacher, nn.Module | CachedLogits):
            raise TypeError(f"teachers: expected a torch.nn.Module or CachedLogits, got {kind_of(teacher)}")
        if teacher is student:
            raise DistillError("teachers: the student cannot teach itself; student_from(teacher, ...) makes another")
    if not teachers:
        raise DistillError("teachers: expected one at least")


def _settled_weights(given: Sequence[float] | None, count: int) -> list[float]:
    weights = [1.0] * count if given is None else list(given)
    if len(weights) != count or min(weights) < 0 or not math.isfinite(sum(weights)) or sum(weights) == 0:
        raise DistillError(f"teacher_weights: expected {count} numbers, none negative and not all 0; got {given}")
    return [weight / sum(weights) for weight in weights]


def _converted(teachers: list[Teacher], config: Config | None) -> list[Teacher]:
    if config is None:
        return teachers
    found: list[Teacher] = []
    for teacher in teachers:
        made = teacher
        if isinstance(teacher, nn.Module):
            made = copy.deepcopy(teacher)
            convert_(made, config)
        found.append(made)
    return found


def _mask(kwargs: Mapping[str, Any]) -> Tensor | None:
    """Which tokens are no padding, bool [B, T], as Hugging Face models are told."""
    mask = kwargs.get("attention_mask")
    return mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None
