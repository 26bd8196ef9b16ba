"""What a model is worth: a function of the user's, or how far its outputs are from those it gives as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn
from torch.nn import functional as F

from edgekern.calibration.errors import DataError
from edgekern.calibration.observe import arguments, inference
from edgekern.sensitivity.trial import Trial
from edgekern.sensitivity.units import Unit

Metric: TypeAlias = "str | Callable[[nn.Module], float]"


class Judge(Protocol):
    """Says what a model is worth while some of its layers are changed."""

    name: str
    """Of the metric."""
    baseline: float
    """For the model as it is."""
    higher_is_better: bool

    def measure(self, unit: Unit, trial: Trial, what: str) -> float:
        """The quality of the model now that the layers of ``unit`` are those of ``trial``; ``what`` is for errors."""


class Quality:
    """Judges one model by running it again and again; it is as it was when this is made.

    The metrics by name compare with the outputs on ``batches`` that the model gives now, which stay in memory.
    """

    def __init__(self, model: nn.Module, metric: Metric, batches: Iterable[Any], higher_is_better: bool) -> None:
        self._model, self._metric, self._batches = model, metric, batches
        self._dense = [] if callable(metric) else list(_outputs(model, batches))
        self.name = getattr(metric, "__name__", type(metric).__name__) if callable(metric) else metric
        self.higher_is_better = higher_is_better if callable(metric) else False
        self.baseline = self._measure("the model as it is")

    def measure(self, unit: Unit, trial: Trial, what: str) -> float:
        """The metric of the model as it is now.

        Raises:
            ValueError: it is no finite number.
        """
        return self._measure(what)

    def _measure(self, what: str) -> float:
        if callable(self._metric):
            value = float(self._metric(self._model))
        else:
            value = METRICS[self._metric](zip(self._dense, _outputs(self._model, self._batches), strict=True))
        if not math.isfinite(value):
            raise ValueError(f"metric: {self.name} gives {value} for {what}; expected a finite number")
        return value


def _relative_mse(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Squared error of all outputs together, over the square of the dense ones."""
    error = total = 0.0
    for dense, now in pairs:
        error += float((now - dense).square().sum())
        total += float(dense.square().sum())
    return error / total if total else error


def _kl(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """KL divergence in nats from the dense distribution, a softmax over the last dimension; mean over the others."""
    total, count = 0.0, 0
    for dense, now in pairs:
        before, after = F.log_softmax(dense, -1), F.log_softmax(now, -1)
        total += float((before.exp() * (before - after)).sum())
        count += dense[..., 0].numel()
    return total / count if count else 0.0


METRICS: dict[str, Callable[[Iterable[tuple[Tensor, Tensor]]], float]] = {"mse": _relative_mse, "kl": _kl}
"""By name. All are 0 for the model as it is, and lower is better."""


def _outputs(model: nn.Module, batches: Iterable[Any]) -> Iterable[Tensor]:
    with inference(model):
        for batch in batches:
            args, kwargs = arguments(batch)
            yield main_tensor(model(*args, **kwargs)).float()


def usual_metric(model: nn.Module, batches: Iterable[Any]) -> str:
    """ "kl" of a model whose output holds ``logits``, as those of language models and classifiers do; else "mse"."""
    with inference(model):
        for batch in batches:
            args, kwargs = arguments(batch)
            output = model(*args, **kwargs)
            return "kl" if isinstance(output, Mapping) and "logits" in output else "mse"
    raise DataError("data: there is not one batch in it")


def main_tensor(output: object) -> Tensor:
    """The output itself, its ``logits``, or the first tensor in it."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = [output["logits"]] if "logits" in output else list(output.values())
    if isinstance(output, tuple | list):
        found = next((item for item in output if isinstance(item, Tensor)), None)
        if found is not None:
            return found
    raise TypeError(f"metric: the model returns {type(output).__name__} without a tensor; pass a function as metric")


def check_metric(metric: object) -> None:
    """TypeError or ValueError unless it is a metric."""
    if isinstance(metric, str):
        if metric not in METRICS:
            raise ValueError(f"metric: unknown name {metric!r}; known are {', '.join(METRICS)}, or pass a function")
    elif not callable(metric) or isinstance(metric, nn.Module):
        raise TypeError(f"metric: expected a function (model) -> float or a name, got {type(metric).__name__}")
