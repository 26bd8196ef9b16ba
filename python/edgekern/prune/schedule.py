"""Pruning over time: gradually while a model trains, or in rounds with training in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from edgekern.config import AGP, Config, Prune, at_share, check_config, schemes_in
from edgekern.plan import FilterFn, plan
from edgekern.prune.apply import carry_out
from edgekern.prune.lock import MaskLock
from edgekern.prune.movement import Movement
from edgekern.prune.report import PruneReport
from edgekern.prune.task import Pruning


class GradualPruner:
    """Prunes a model a little more whenever its schedule says so, and keeps zero what was pruned.

    ``step()`` goes after every ``optimizer.step()``::

        pruner = GradualPruner(model, Prune(0.8, "4x4"), AGP(begin=100, end=2000, every=50), optimizer)

    What was pruned stays pruned: zeros have the lowest scores. Arguments are those of ``prune_`` and ``MaskLock``.

    The method "movement" (Sanh et al. 2020, arXiv 2005.07683) sums scores up from the first step of ``optimizer`` on,
    which it therefore needs: begin pruning when they have had some steps to tell weights apart.

    Raises:
        TypeError: an argument of another type.
        ValueError: a pattern or method that cannot be gradual: N:M has one sparsity only, and SparseGPT moves weights
            as if there were no training after it; the method "movement" without an optimizer.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        schedule: AGP,
        optimizer: Optimizer | None = None,
        data: Iterable[Any] | None = None,
        filter_fn: FilterFn | None = None,
    ) -> None:
        if not isinstance(schedule, AGP):
            raise TypeError(f"schedule: expected AGP(...), got {type(schedule).__name__}")
        self._config = check_config(config, "prune_")
        schemes = [scheme for scheme in schemes_in(self._config) if isinstance(scheme, Prune)]
        for scheme in schemes:
            schedule.at(scheme, schedule.begin)
        self._model, self._schedule, self._filter_fn = model, schedule, filter_fn
        self._data = list(data) if data is not None and iter(data) is data else data
        moves = any(scheme.method == "movement" for scheme in schemes)
        if moves and optimizer is None:
            raise ValueError(
                "method 'movement' scores weights at each step of the optimizer; "
                "pass it: GradualPruner(model, config, schedule, optimizer)"
            )
        self.lock = MaskLock(model, optimizer)
        self._movement = self._watch(optimizer) if moves and optimizer else None
        self.steps = 0
        """Steps made so far."""

    def _watch(self, optimizer: Optimizer) -> Movement:
        decisions = plan(self._model, self._config, self._filter_fn, Pruning())
        names = [d.layer.name for d in decisions if isinstance(d.scheme, Prune) and d.scheme.method == "movement"]
        return Movement(self._model, names, optimizer)

    def step(self) -> PruneReport | None:
        """Counts a step and prunes when it is time; the report of that, or None."""
        self.steps += 1
        if not self._schedule.due(self.steps):
            return None
        report = carry_out(
            self._model,
            self._config,
            self._data,
            self._filter_fn,
            change=partial(self._schedule.at, step=self.steps),
            movement=self._movement.scores() if self._movement else None,
            progress=False,
        )
        self.lock.update()
        return report

    def state_dict(self) -> dict[str, Any]:
        """Steps, masks, and the scores of the method "movement", for a checkpoint."""
        state: dict[str, Any] = {"steps": self.steps, "lock": self.lock.state_dict()}
        return {**state, "movement": self._movement.state_dict()} if self._movement else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint; raises as ``MaskLock.load_state_dict`` does, and where scores do not fit."""
        if self._movement:
            if "movement" not in state:
                raise ValueError("state: it holds no scores of method 'movement', by which this GradualPruner prunes")
            self._movement.load_state_dict(state["movement"])
        self.lock.load_state_dict(state["lock"])
        self.steps = state["steps"]


def prune_iteratively_(
    model: nn.Module,
    config: Config,
    train: Callable[[nn.Module, MaskLock], object],
    rounds: int,
    *,
    rewind: Mapping[str, Tensor] | None = None,
    data: Iterable[Any] | None = None,
    filter_fn: FilterFn | None = None,
) -> PruneReport:
    """Prunes a trained model in rounds, each of which removes the same share of what is left, and trains after each.

    With ``rewind``, the weights that are kept go back to an earlier state before each training: that of the beginning
    (Frankle and Carbin 2018, arXiv 1803.03635) or of early in training (Renda et al. 2020, arXiv 2003.02389).

    Args:
        model: trained; changed in place. When a training fails, it stays as that left it.
        config: the sparsity after the last round.
        train: called as ``train(model, lock)`` in each round; it makes an optimizer and calls ``lock.attach`` with it.
        rounds: how many, 1 or more.
        rewind: a copy of a state dict to go back to; None goes on from the present weights.
        data: as for ``prune_``.
        filter_fn: as for ``prune_``.

    Returns:
        The report of the last pruning.

    Raises:
        TypeError, ValueError: as ``prune_`` does; a method or pattern that cannot be gradual when there are several
            rounds; fewer than 1 round.
    """
    check_config(config, "prune_")
    if not callable(train):
        raise TypeError(f"train: expected a function (model, lock), got {type(train).__name__}")
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, got {rounds}")
    batches = list(data) if data is not None and iter(data) is data else data
    lock = MaskLock(model)
    for done in range(1, rounds + 1):
        report = carry_out(model, config, batches, filter_fn, change=partial(_after, part=done / rounds))
        lock.update()
        if rewind is not None:
            model.load_state_dict(rewind)
            lock.apply_()
        train(model, lock)
        lock.remove()  # the round's optimizer and its state can go
    return report


def _after(scheme: Prune, part: float) -> Prune:
    """The scheme when this part of the rounds is done: what is left shrinks by the same factor in each."""
    return scheme if part == 1 else at_share(scheme, 1 - (1 - scheme.share) ** part)
