"""``prune_``: zeroing weights of a float model in place, all that was asked for or none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.calibration.errors import UNREACHED, data_errors_as
from edgekern.calibration.journal import journal
from edgekern.calibration.observe import Hessian, Norms, Observe, check_data, gather
from edgekern.calibration.progress import progress_bar
from edgekern.calibration.walk import Walk
from edgekern.config import CALIBRATED_METHODS, Config, Prune, check_config
from edgekern.nn.layers import Layer
from edgekern.plan import Decision, FilterFn, check_filter_fn, check_model, plan
from edgekern.prune.allocate import global_masks, outlier_ratio, owl_shares
from edgekern.prune.job import Job
from edgekern.prune.report import PruneReport, PruneRow
from edgekern.prune.task import PruneError, Pruning, target_verdict


def prune_(
    model: nn.Module,
    config: Config,
    data: Iterable[Any] | None = None,
    filter_fn: FilterFn | None = None,
    *,
    sequential: bool = True,
    progress: bool = True,
) -> PruneReport:
    """Zeroes weights of the linear and 2-d convolution layers of ``model``, in place: all that was asked for, or none.

    The model stays an ordinary float model that stores its zeros. Everything is checked before the first weight
    changes; if calibration fails on the way, or is interrupted, every weight is put back. For that, both versions of
    the pruned weights are in memory until the call returns. Parameters keep their identity, so optimizers go on
    working; ``MaskLock`` keeps zeros at zero while they do.

    Left alone, each with its reason in the report: layers without a rule or with the rule None, those ``filter_fn``
    declines, those smaller than one group of the pattern, those that the calibration data never reach, subclasses with
    a forward of their own, parametrised, already masked, lazy, meta or quantised layers, other devices and dtypes, and,
    unless a rule names or matches them, the output head ``lm_head`` and layers whose weight another module shares. With
    ``Prune(target=...)`` also what that target would not run faster for it.

    Args:
        model: any module that holds layers, or a layer.
        config: one ``Prune`` for every layer, or ``PerLayer`` with them.
        data: for the methods "wanda" and "sparsegpt" and the scope "owl": batches to run the model on, in eval mode and
            without autograd. A mapping is passed as keyword arguments, a tuple or list as positional ones, anything
            else as the only one.
        filter_fn: called as ``filter_fn(module, name)`` for each layer; false leaves it alone.
        sequential: layers are pruned in the order in which the model first calls them, each judged by inputs that come
            through the layers pruned before it, as they will in use. In a chain of blocks, as the layers of a
            transformer are, that takes about as many passes over the data as a block has distinct inputs, elsewhere one
            for each input, up to where it is; see ``calibration/walk.py``. Only the statistics of layers that share an
            input are kept, and the inputs of one block where they take no more memory than the model; data that can be
            iterated only once are kept too. False judges all layers as none of them was pruned, in one pass that keeps
            the statistics of all: for SparseGPT, in_features squared float32 values each.
        progress: shows a progress bar while data are used.

    Returns:
        What became of every linear and 2-d convolution layer.

    Raises:
        TypeError: an argument of another type.
        PruneError: data missing, empty, or giving NaN; a weight that holds NaN or infinity; a rule for a layer that
            does not exist or cannot be pruned; rules at odds over a layer with several names; nothing to prune at all;
            the method "movement", which takes a ``GradualPruner``.
    """
    return carry_out(model, config, data, filter_fn, sequential=sequential, progress=progress)


@data_errors_as(PruneError)
def carry_out(
    model: nn.Module,
    config: Config,
    data: Iterable[Any] | None = None,
    filter_fn: FilterFn | None = None,
    *,
    change: Callable[[Prune], Prune] = lambda scheme: scheme,
    movement: Mapping[str, Tensor] | None = None,
    sequential: bool = True,
    progress: bool = True,
) -> PruneReport:
    """``prune_`` for what takes several calls to reach ``config``.

    Args:
        model, config, data, filter_fn, sequential, progress: as for ``prune_``. Which layers are left alone, and why,
            is settled by ``config``, as it will be at the end.
        change: what to do to a layer now, from what shall become of it.
        movement: scores of the layers with the method "movement", by layer name, in the shape of the weight.
    """
    check_arguments(model, config, data, filter_fn)
    decisions = plan(model, config, filter_fn, Pruning())
    schemes = [(d.layer, change(d.scheme)) for d in decisions if isinstance(d.scheme, Prune)]
    jobs = [Job(layer, scheme, scheme.share) for layer, scheme in schemes]
    _give_movement(jobs, movement)
    batches = _checked_batches(jobs, data, sequential)
    with journal() as replace, progress_bar("Pruning", len(jobs), progress and batches is not None) as advance:

        def settle(job: Job, matrix: Tensor) -> None:
            replace(job.weight, matrix)
            advance(job.name)

        _Run(model, jobs, batches or (), sequential, settle).all()
    by_name = {job.name: job for job in jobs}
    return PruneReport(tuple(_row(decision, by_name.get(decision.layer.name)) for decision in decisions))


@dataclass
class _Run:
    """Carries the jobs out."""

    model: nn.Module
    jobs: list[Job]
    batches: Iterable[Any]
    sequential: bool
    settle: Callable[[Job, Tensor], None]
    """Gives a job's layer its new matrix."""

    def all(self) -> None:
        """Prunes every layer; a job that turns out to be impossible gets a reason."""
        # What looks at all layers comes first, while they are as they were; what needs data then sees the rest pruned.
        self._allocate_owl()
        for scheme, jobs in _by_scheme(self._open("global")).items():
            self._prune_globally(scheme, jobs)
        for job in self._open("local", "owl"):
            if job.scheme.method not in CALIBRATED_METHODS:
                self.settle(job, job.masked(job.scores()))
        calibrated = [job for job in self._open("local", "owl") if job.scheme.method in CALIBRATED_METHODS]
        if calibrated and self.sequential:
            by_layer = {job.layer.module: job for job in calibrated}
            walk = Walk(self.model, list(by_layer), self.batches)
            for stage in walk.stages:
                lots = [[by_layer[module] for module in lot] for lot in walk.sharing(stage)]
                self._prune_stage([part for lot in lots for part in _by_statistic(lot)], walk.gather)
        elif calibrated:
            self._prune_stage(
                [[job] for job in calibrated], lambda watchers: gather(self.model, watchers, self.batches)
            )
        if self.jobs and not self._open("local", "global", "owl"):
            raise PruneError(f"nothing to prune: of each of {len(self.jobs)} layers, {self.jobs[0].reason}")

    def _open(self, *scopes: str) -> list[Job]:
        return [job for job in self.jobs if job.scheme.scope in scopes and not job.reason]

    def _allocate_owl(self) -> None:
        jobs = self._open("owl")
        if not jobs:
            return
        watchers = {job.layer.module: Norms(job.layer.module) for job in jobs}
        gather(self.model, watchers, self.batches)
        for job in jobs:
            job.reason = "" if watchers[job.layer.module].seen(job.name) else UNREACHED
        for scheme, group in _by_scheme(self._open("owl")).items():
            scores = (job.wanda_scores(watchers[job.layer.module].norms()) for job in group)
            ratios = [outlier_ratio(score, scheme.outlier_factor) for score in scores]
            shares = owl_shares(ratios, [job.weight.numel() for job in group], scheme)
            for job, share in zip(group, shares, strict=True):
                job.share = share

    def _prune_globally(self, scheme: Prune, jobs: list[Job]) -> None:
        masks = global_masks([job.pattern.unit_scores(job.scores()) for job in jobs], scheme)
        for job, units in zip(jobs, masks, strict=True):
            self.settle(job, job.kept(job.pattern.spread(units, *job.matrix.shape)))

    def _prune_stage(self, lots: list[list[Job]], look: Callable[[Mapping[nn.Module, Observe]], None]) -> None:
        """Prunes layers by what ``look`` shows them of the data; the first of a lot sees it for all of them."""
        watchers = {lot[0].layer.module: _statistic(lot[0])(lot[0].layer.module) for lot in lots}
        look(watchers)
        for lot in lots:
            watcher = watchers.pop(lot[0].layer.module)  # freed once it was used
            for job in lot:
                if not watcher.seen(job.name):
                    job.reason = UNREACHED
                elif isinstance(watcher, Norms):
                    self.settle(job, job.masked(job.wanda_scores(watcher.norms()), by_row=True))
                else:
                    self.settle(job, job.solved(watcher.total))


def _statistic(job: Job) -> type[Norms | Hessian]:
    return Norms if job.scheme.method == "wanda" else Hessian


def _by_statistic(jobs: list[Job]) -> list[list[Job]]:
    found: dict[type, list[Job]] = defaultdict(list)
    for job in jobs:
        found[_statistic(job)].append(job)
    return list(found.values())


def _by_scheme(jobs: list[Job]) -> dict[Prune, list[Job]]:
    found: dict[Prune, list[Job]] = defaultdict(list)
    for job in jobs:
        found[job.scheme].append(job)
    return found


# ---------------------------------------------------------------------------------------------- before and after


def check_arguments(model: object, config: object, data: object, filter_fn: object) -> None:
    """TypeError or PruneError unless ``prune_`` takes these."""
    check_model(model, Pruning.verb, PruneError)
    check_config(config, "prune_")
    check_filter_fn(filter_fn)
    check_data(data)


def _give_movement(jobs: list[Job], movement: Mapping[str, Tensor] | None) -> None:
    """Hands the scores out; a layer that has none gets a reason."""
    for job in jobs:
        if job.scheme.method != "movement":
            continue
        if movement is None:
            raise PruneError(
                "config: method 'movement' judges weights by how training moves them, which one call cannot see; "
                "train with GradualPruner(model, config, AGP(...), optimizer)"
            )
        job.movement = movement.get(job.name)
        job.reason = "" if job.movement is not None else "no gradient has reached its weight"


def _checked_batches(jobs: list[Job], data: Iterable[Any] | None, sequential: bool) -> Iterable[Any] | None:
    """The batches, such that they can be iterated as often as needed; None when no job needs any."""
    needing = [job.scheme for job in jobs if job.scheme.needs_data]
    if not needing:
        return None
    if data is None:
        cause = "scope='owl'" if needing[0].scope == "owl" else f"method={needing[0].method!r}"
        raise PruneError(f"data: {cause} needs calibration data; pass an iterable of batches")
    passes_once = iter(data) is data
    several_passes = sequential or any(scheme.scope == "owl" for scheme in needing)
    return list(data) if passes_once and several_passes else data


def _row(decision: Decision, job: Job | None) -> PruneRow:
    layer = decision.layer
    reason = decision.reason if job is None else job.reason
    pruned = None if job is None or reason else job
    verdict = target_verdict(decision.scheme) if pruned else None
    weights, zeros = _count(layer)
    return PruneRow(
        name=layer.name,
        kind=layer.kind,
        shape=layer.shape,
        method=pruned.scheme.method if pruned else "",
        pattern=pruned.scheme.pattern if pruned else "",
        asked=pruned.share if pruned else 0.0,
        pays_at=verdict.pays_at if verdict else "",
        zeros=zeros,
        weights=weights,
        reason=reason,
    )


def _count(layer: Layer) -> tuple[int, int]:
    """Weights, and zeros among them; none are known of in a weight that is no plain tensor with values."""
    weights = torch.Size(layer.shape).numel() if layer.shape else 0
    parameter = layer.module._parameters.get("weight")
    known = type(parameter) is nn.Parameter and not parameter.is_meta and parameter.layout == torch.strided
    return weights, weights - int(parameter.detach().count_nonzero()) if known and parameter is not None else 0
