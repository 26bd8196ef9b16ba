"""The data of a run, and knowing them again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekern.calibration.observe import arguments
from edgekern.compress.errors import CompressError
from edgekern.config import FineTuneStage, Recipe, Stage
from edgekern.config.checks import kind_of
from edgekern.train.feed import Batches
from edgekern.train.training import Loss

CALIBRATION, TRAINING, EVALUATION = "calibration", "training", "evaluation"


def own_loss(model: nn.Module, batch: Any) -> Tensor:
    """The loss that a model gives itself, under "loss", as those of Hugging Face do for a batch with labels.

    Raises:
        CompressError: it gives none.
    """
    args, kwargs = arguments(batch)
    output = model(*args, **kwargs)
    found = output.get("loss") if isinstance(output, Mapping) else None
    if not isinstance(found, Tensor):
        raise CompressError(
            f"loss: {type(model).__name__} gives no 'loss' for a batch of the training data; pass "
            "CompressData(loss=...), a function (model, batch), or let the batches hold labels"
        )
    return found


@dataclass(frozen=True)
class CompressData:
    """What the stages of a recipe are given. A recipe that has no use for a part does without it.

    A batch is what the model is called with: a mapping holds keyword arguments, a tuple or list positional ones.

    Attributes:
        calibration: batches for methods that look at what layers are given, and for static ranges.
        training: batches for ``fit``: anything that it takes. To ``distil`` from tuples, labels are their last item
            where the stage's ``hard`` is above 0, and must not be there otherwise; in mappings they are "labels".
        evaluation: batches to evaluate with: a call with the first one is timed.
        loss: what ``fine_tune`` trains by, as ``fit`` takes it.
        evaluate: the quality of a model, called as ``evaluate(model)``, the model in eval mode and without autograd.
            None measures how far its outputs on ``evaluation`` are from those of the model that the run began with.
        metric: what ``evaluate`` gives.
        higher_is_better: whether more of that is better.
        causal: whether it is a language model, whose labels are those of the next token.
        version: what tells these data from others, where looking at them does not: data in lists, tuples and mappings
            of tensors are looked at; functions, loaders and other iterables are not.

    Raises:
        TypeError: an argument of another type; an iterator, which cannot be gone through twice.
    """

    calibration: Iterable[Any] | None = None
    training: Batches | None = None
    evaluation: Iterable[Any] | None = None
    loss: Loss = own_loss
    evaluate: Callable[[nn.Module], float] | None = None
    metric: str = "quality"
    higher_is_better: bool = True
    causal: bool = False
    version: str = ""

    def __post_init__(self) -> None:
        for name in (CALIBRATION, TRAINING, EVALUATION):
            value = getattr(self, name)
            if value is None or (name == TRAINING and callable(value)):
                continue
            if isinstance(value, Tensor | Mapping | str) or not isinstance(value, Iterable):
                raise TypeError(f"{name}: expected an iterable of batches, got {kind_of(value)}; one batch is [batch]")
            if isinstance(value, Iterator):
                raise TypeError(
                    f"{name}: an iterator can be gone through once; a run that goes on needs it again: give a list, "
                    "or for training a function (epoch)"
                )
        for name in ("loss", "evaluate"):
            if not callable(getattr(self, name)) and not (name == "evaluate" and self.evaluate is None):
                raise TypeError(f"{name}: expected a function, got {kind_of(getattr(self, name))}")

    def part(self, name: str) -> Any:
        """One of the three.

        Raises:
            CompressError: it is not there.
        """
        value = getattr(self, name)
        if value is None:
            raise CompressError(f"data: there is no {name} data; pass CompressData({name}=...)")
        return value

    def first(self, name: str) -> Any:
        """The first batch of one of the three.

        Raises:
            CompressError: there is none.
        """
        value = self.part(name)
        for batch in value if isinstance(value, Iterable) else value(0):
            return batch
        raise CompressError(f"data: there is not one batch in the {name} data")

    def check(self, recipe: Recipe) -> None:
        """CompressError unless there is what the stages of a recipe need."""
        for stage in recipe.stages:
            for name in parts_needed(stage):
                if getattr(self, name) is None:
                    raise CompressError(
                        f"data: stage {stage.name!r} ({stage.kind}) needs {name} data; pass CompressData({name}=...)"
                    )


def parts_needed(stage: Stage) -> tuple[str, ...]:
    """Which of the three a stage cannot do without."""
    needs = {CALIBRATION: stage.needs_calibration, TRAINING: stage.trains, EVALUATION: stage.needs_evaluation}
    return tuple(name for name, needed in needs.items() if needed)


@dataclass
class Digests:
    """SHA-256 of the parts of the data, each looked at once and only when it is asked for."""

    data: CompressData
    _known: dict[str, str] = field(default_factory=dict)

    def of(self, stage: Stage) -> dict[str, str]:
        """Of what a stage uses."""
        names = [name for name in parts_needed(stage) if getattr(self.data, name) is not None]
        if stage.kind == "convert" and self.data.calibration is not None and CALIBRATION not in names:
            names.append(CALIBRATION)  # static ranges of what an earlier stage has rounded for
        for name in names:
            if name not in self._known:
                self._known[name] = digest(getattr(self.data, name), self.data.version)
        found = {name: self._known[name] for name in names}
        if EVALUATION in found:
            found["metric"] = self.data.metric
        if isinstance(stage, FineTuneStage) and self.data.loss is not own_loss:
            found["loss"] = getattr(self.data.loss, "__name__", type(self.data.loss).__name__)
        return found


def digest(data: object, version: str = "") -> str:
    """SHA-256 of plain data and tensors; for anything else its attribute ``digest`` speaks, or class and length."""
    state = hashlib.sha256(version.encode())
    _feed(data, state.update)
    return state.hexdigest()


def _feed(value: object, update: Callable[[bytes | memoryview], None]) -> None:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        update(f"tensor {plain.dtype} {list(plain.shape)} ".encode())
        update(plain.reshape(-1).view(torch.uint8).numpy().data)  # no copy
    elif isinstance(value, np.ndarray):
        update(f"array {value.dtype} {value.shape} ".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        update(f"mapping {len(value)} ".encode())
        for key, item in value.items():
            update(f"{key!r}: ".encode())
            _feed(item, update)
    elif isinstance(value, tuple | list):
        update(f"{len(value)} of ".encode())
        for item in value:
            _feed(item, update)
    elif value is None or isinstance(value, str | int | float | bool | bytes):
        update(f"{value!r} ".encode())
    elif isinstance(known := getattr(value, "digest", None), str):
        update(known.encode())
    else:
        length = len(value) if hasattr(value, "__len__") else "?"
        update(f"{type(value).__module__}.{type(value).__qualname__} {length} ".encode())


def digest_of_model(model: nn.Module) -> str:
    """SHA-256 of all tensors of a model by name, those that no state dict holds too."""
    buffers = dict(model.named_buffers())
    return digest({**{name: buffers[name] for name in sorted(buffers)}, **model.state_dict()})
