"""What plugs into a training: pruned weights that stay zero, gradual pruning, training with rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from edgekern.config import Config
from edgekern.plan import FilterFn
from edgekern.prune import AGP, GradualPruner, MaskLock, PruneReport
from edgekern.qat import QATReport, prepare_qat_
from edgekern.train.run import Run


class Callback:
    """Base of what is called in the course of a training. Every method may be left as it is.

    What it remembers belongs into ``state_dict``: plain data and tensors, since checkpoints are read without running
    code.
    """

    def start(self, run: Run) -> None:
        """The optimizer is made; no step is. A checkpoint's state comes after it, by ``load_state_dict``."""

    def resume(self, run: Run) -> None:
        """A checkpoint was read, after ``load_state_dict``: ``run.step`` and the model are those of it."""

    def after_backward(self, run: Run) -> None:
        """Gradients are there, those of all batches of the step; they are clipped next."""

    def after_step(self, run: Run) -> None:
        """The optimizer has made a step, and ``run.step`` counts it."""

    def after_evaluate(self, run: Run) -> None:
        """``run.metrics`` are new."""

    def end(self, run: Run) -> None:
        """Training is over, or has failed: hooks have to go."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""


class KeepZeros(Callback):
    """Weights that are zero when training begins stay zero: a ``MaskLock``.

    Args:
        masks: as for ``MaskLock``.
    """

    def __init__(self, masks: Mapping[str, Tensor] | None = None) -> None:
        self._masks = masks
        self.lock: MaskLock | None = None
        """The lock, once training has begun."""

    def start(self, run: Run) -> None:
        self.lock = MaskLock(run.model, run.optimizer, self._masks)

    def after_backward(self, run: Run) -> None:
        _begun(self.lock).mask_gradients_()  # the norm that gradients are clipped by is that of the weights left

    def end(self, run: Run) -> None:
        if self.lock is not None:
            self.lock.remove()

    def state_dict(self) -> dict[str, Any]:
        return dict(_begun(self.lock).state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _begun(self.lock).load_state_dict(state)


class PruneGradually(Callback):
    """Prunes a little more whenever a schedule says so, and keeps zero what was pruned: a ``GradualPruner``.

    Args:
        config, schedule, data, filter_fn: as for ``GradualPruner``.
    """

    def __init__(
        self, config: Config, schedule: AGP, data: Iterable[Any] | None = None, filter_fn: FilterFn | None = None
    ) -> None:
        self._arguments = (config, schedule, data, filter_fn)
        self.pruner: GradualPruner | None = None
        """The pruner, once training has begun."""
        self.report: PruneReport | None = None
        """Of the last pruning."""

    def start(self, run: Run) -> None:
        config, schedule, data, filter_fn = self._arguments
        self.pruner = GradualPruner(run.model, config, schedule, run.optimizer, data, filter_fn)

    def after_backward(self, run: Run) -> None:
        _begun(self.pruner).lock.mask_gradients_()

    def after_step(self, run: Run) -> None:
        self.report = _begun(self.pruner).step() or self.report

    def end(self, run: Run) -> None:
        if self.pruner is not None:
            self.pruner.lock.remove()

    def state_dict(self) -> dict[str, Any]:
        return _begun(self.pruner).state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _begun(self.pruner).load_state_dict(state)


class PrepareQAT(Callback):
    """Linear layers train with the rounding that ``convert_`` will give them, from some step on: ``prepare_qat_``.

    The model is left prepared: ``convert_`` finishes it.

    Args:
        config, filter_fn: as for ``prepare_qat_``.
        begin: steps that are made without rounding before.
    """

    def __init__(self, config: Config, begin: int = 0, filter_fn: FilterFn | None = None) -> None:
        if isinstance(begin, bool) or not isinstance(begin, int) or begin < 0:
            raise ValueError(f"PrepareQAT: begin must be a number of steps, 0 or more; got {begin!r}")
        self._config, self._begin, self._filter_fn = config, begin, filter_fn
        self.report: QATReport | None = None
        """What became of each layer, once they are prepared."""

    def start(self, run: Run) -> None:
        self._prepare(run)

    def after_step(self, run: Run) -> None:
        self._prepare(run)

    def resume(self, run: Run) -> None:
        self._prepare(run)

    def _prepare(self, run: Run) -> None:
        if self.report is None and run.step >= self._begin:
            self.report = prepare_qat_(run.model, self._config, self._filter_fn)


def _begun(made: Any) -> Any:
    if made is None:
        raise RuntimeError("the training has not begun; fit() and EdgekernCallback call start() first")
    return made
