"""What a batch holds for distillation: the models' arguments, labels, and the samples' numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edgekern.calibration.observe import arguments
from edgekern.distill.errors import DistillError


@dataclass(frozen=True)
class Lesson:
    """A batch, taken apart.

    Attributes:
        args: positional arguments of student and teachers.
        kwargs: their keyword arguments.
        labels: None where the batch holds none.
        index: numbers of the samples in cached logits; None where the batch holds none.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: Tensor | None
    index: Tensor | None

    @property
    def mask(self) -> Tensor | None:
        """Which tokens are no padding, bool [B, T], as Hugging Face models are told."""
        mask = self.kwargs.get("attention_mask")
        return mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def given_to(self, model: nn.Module, attentions: bool = False) -> Any:
        """What a model gives for it, with its attention maps if asked for."""
        asked = {"output_attentions": True} if attentions else {}
        return model(*self.args, **self.kwargs, **asked)


def taken_apart(batch: Any, labelled: bool, numbered: bool) -> Lesson:
    """A batch's parts.

    Args:
        batch: a mapping with "labels" and "index" among the arguments; a tuple or list with labels behind those, and
            numbers behind all else; or one argument.
        labelled: whether a tuple holds labels.
        numbered: whether it holds numbers.

    Raises:
        DistillError: a tuple that is too short for that.
    """
    args, kwargs = arguments(batch)
    if isinstance(batch, Mapping):
        return Lesson((), kwargs, kwargs.pop("labels", None), kwargs.pop("index", None))
    rest = list(args)
    wanted = 1 + numbered + labelled
    if len(rest) < wanted:
        raise DistillError(f"batch: expected {wanted} tensors or more, inputs, labels and numbers; got {len(rest)}")
    index = rest.pop() if numbered else None
    labels = rest.pop() if labelled else None
    return Lesson(tuple(rest), {}, labels, index)
