"""``Distiller``: the loss of a student against one teacher or several, for ``train.fit`` or any other loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.calibration.observe import inference
from edgekern.config import Config
from edgekern.config.checks import check_number
from edgekern.distill.batch import Lesson, taken_apart
from edgekern.distill.cached import CachedLogits
from edgekern.distill.errors import DistillError
from edgekern.distill.features import outputs_of
from edgekern.distill.inside import Attention, Hidden, check_inside
from edgekern.distill.logits import Target, labels_target, logits_loss
from edgekern.distill.outputs import logits_of
from edgekern.distill.teachers import Teacher, checked_teachers, converted, settled_weights


class Distiller(nn.Module):
    """Called as ``distiller(student, batch)``, it gives the loss, as "loss", and its parts if there are several.

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
        found = checked_teachers(student, teachers)
        if not (soft or hard or hidden or attention):
            raise DistillError("soft, hard, hidden, attention: expected at least one to learn from")
        check_inside(hidden, attention, student, found, example_inputs)
        self.temperature, self.soft, self.hard, self.causal = temperature, soft, hard, causal
        self.hidden, self.attention = hidden, attention
        self._weights = settled_weights(teacher_weights, len(found))
        # In a tuple, so that they are no submodules: they are neither trained nor saved with the projections.
        self._teachers = converted(found, convert_teachers)
        self.projections = nn.ModuleDict()
        if hidden is not None or attention is not None:
            self._look_inside(student, example_inputs)

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The teachers, converted where that was asked for."""
        return self._teachers

    def forward(self, student: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The loss of a batch, a scalar as "loss".

        With several parts, these too, without weights, as "soft", "hard", "hidden" and "attention". A single one would
        say nothing that the loss does not.

        Raises:
            DistillError: labels or numbers of samples that are missing, or logits that do not go together.
        """
        lesson = self._taken_apart(batch)
        names = self.hidden.layers.keys() if self.hidden else ()
        with outputs_of(student, names) as features:
            output = lesson.given_to(student, attentions=self.attention is not None)
        taught = self._teach(lesson)
        parts: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        if self.soft or self.hard:
            losses.append(self._compare_logits(output, taught, lesson, parts))
        if self.hidden:
            wanted = taught[self.hidden.teacher][1]
            parts["hidden"] = self.hidden.distance(self.projections, features, wanted, lesson.mask)
            losses.append(self.hidden.weight * parts["hidden"])
        if self.attention:
            parts["attention"] = self.attention.distance(output, taught[self.attention.teacher][0], lesson.mask)
            losses.append(self.attention.weight * parts["attention"])
        return {"loss": torch.stack(losses).sum(), **(parts if len(parts) > 1 else {})}

    def _compare_logits(
        self,
        output: object,
        taught: list[tuple[object, dict[str, Tensor]]],
        lesson: Lesson,
        parts: dict[str, Tensor],
    ) -> Tensor:
        logits, labels, mask = logits_of(output, "student"), lesson.labels, lesson.mask
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
                targets.append(self._target(weight, rows.reshape(-1), logits, teacher, taught[i][0], lesson.index))
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

    def _teach(self, lesson: Lesson) -> list[tuple[object, dict[str, Tensor]]]:
        """Of each teacher: its output, and what its layers give."""
        found: list[tuple[object, dict[str, Tensor]]] = []
        for i, teacher in enumerate(self._teachers):
            if isinstance(teacher, CachedLogits):
                found.append((None, {}))
                continue
            names = self.hidden.layers.values() if self.hidden and self.hidden.teacher == i else ()
            with inference(teacher), outputs_of(teacher, dict.fromkeys(names)) as features:
                found.append((lesson.given_to(teacher, attentions=self.attention is not None), features))
        return found

    def _taken_apart(self, batch: Any) -> Lesson:
        numbered = any(isinstance(teacher, CachedLogits) for teacher in self._teachers)
        return taken_apart(batch, labelled=bool(self.hard), numbered=numbered)

    def _look_inside(self, student: nn.Module, batch: Any) -> None:
        """Makes projections where widths differ, and finds out whether there are attention maps."""
        lesson = self._taken_apart(batch)
        mine = list(self.hidden.layers) if self.hidden else []
        with inference(student), outputs_of(student, mine) as found:
            output = lesson.given_to(student, attentions=self.attention is not None)
        taught = self._teach(lesson)
        if self.attention is not None:
            self.attention.distance(output, taught[self.attention.teacher][0], None)
        if self.hidden is not None:
            self.projections = self.hidden.projections(found, taught[self.hidden.teacher][1])
