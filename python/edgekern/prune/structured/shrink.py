"""``shrink_``: channels and heads taken out of a float model in place, all that was asked for or none."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgekern.config import Config, PerLayer, Shrink, check_config
from edgekern.match import DEFAULT, Match, match
from edgekern.nn.layers import find_layers
from edgekern.prune.allocate import global_masks
from edgekern.prune.calibrate import Norms, check_data, gather
from edgekern.prune.patterns import lowest, nearest
from edgekern.prune.structured.cut import Cut, Journal
from edgekern.prune.structured.groups import Group, Owners, find_groups, owners_of
from edgekern.prune.structured.obstacles import obstacle
from edgekern.prune.structured.report import ShrinkReport, ShrinkRow, Size
from edgekern.prune.structured.score import contributions, magnitudes, random_scores, readers
from edgekern.prune.structured.trace import call_model, trace
from edgekern.prune.task import PruneError, check_model

_UNKNOWN = "example_inputs do not reach it, or its weight is no plain parameter"


def shrink_(model: nn.Module, config: Config, example_inputs: Any, data: Iterable[Any] | None = None) -> ShrinkReport:
    """Takes channels and attention heads out of ``model``, in place: all that was asked for, or nothing.

    Which channels can only go together is found by following them through the model as ``torch.export`` traces it:
    through activations, normalisation, residual sums, concatenation, reshapes, depthwise convolutions and attention.
    The model's own inputs and outputs keep their sizes. The result is an ordinary float model with smaller layers.

    Before anything is final, the model runs on ``example_inputs`` twice, once with the units taken out and once with
    the same units whole but unread; groups for which the results differ are left alone.

    Parameters that become smaller are new objects: make optimizers afterwards. Sizes in a Hugging Face ``config`` stay
    as they were; ``shrink_like_`` gives a freshly built model the shapes of a saved one.

    Args:
        model: any module that ``torch.export`` can trace.
        config: one ``Shrink`` for every group, or ``PerLayer`` with them. A rule that names or matches any layer of a
            group, one of those whose outputs its units are, is the whole group's.
        example_inputs: one batch: a mapping is passed as keyword arguments, a tuple or list as positional ones,
            anything else as the only one. Channels that it does not reach are left alone.
        data: for the method "wanda": batches likewise.

    Returns:
        What became of every group, and the model's size before and after.

    Raises:
        TypeError: an argument of another type.
        PruneError: a model that cannot be traced; data missing or empty; weights that hold NaN or infinity; a rule for
            a layer that does not exist or cannot be shrunk; rules at odds over one group; nothing to shrink at all.
    """
    check_model(model, "shrink")
    check_config(config, "shrink_")
    check_data(data)
    owners = owners_of(model)
    jobs = _plan(model, config, find_groups(model, trace(model, example_inputs)), owners)
    _choose(model, jobs, data, owners)
    before, shapes = _size(model, example_inputs), _shapes(model)
    journal = Journal(model, owners)
    with journal.all_or_nothing():
        _isolate_failures(journal, model, jobs, example_inputs)
        _check_not_idle(jobs)
        journal.take_out(_cuts(jobs))
        after = _size(model, example_inputs)
    changed = {name: (shapes[name], shape) for name, shape in _shapes(model).items() if shape != shapes[name]}
    return ShrinkReport((*map(_row, jobs), *_rows_without_group(model, jobs)), changed, before, after)


def shrink_like_(model: nn.Module, state: Mapping[str, Tensor], example_inputs: Any) -> None:
    """Gives a freshly built model the shapes of one that was shrunk, so that it can load its state dict.

    Its values have no meaning until then. All or nothing, as ``shrink_``.

    Args:
        model: built as the shrunk one was.
        state: ``state_dict()`` of the shrunk model.
        example_inputs: as for ``shrink_``.

    Raises:
        PruneError: the model cannot be traced, or removing channels and heads from it does not give those shapes.
    """
    names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    groups = find_groups(model, trace(model, example_inputs))
    cuts = []
    for group in groups:
        span = group.spans[0]
        wanted = state.get(names.get(id(span.axis.tensor), ""))
        ours = int((span.unit >= 0).sum())
        lost = 0 if wanted is None or span.axis.dim >= wanted.ndim else len(span.unit) - wanted.shape[span.axis.dim]
        if 0 < lost < ours:
            cuts.append(Cut(group, torch.arange(group.size) < (ours - lost) // group.width))
    journal = Journal(model, owners_of(model))
    with journal.all_or_nothing():
        journal.take_out(cuts)
        for name, shape in _shapes(model).items():
            if name in state and tuple(state[name].shape) != shape:
                raise PruneError(
                    f"state: {name!r} has shape {list(state[name].shape)}; without the channels and heads that are "
                    f"gone from others, this model's has {list(shape)}. Is it built as the one that was shrunk?"
                )


# ---------------------------------------------------------------------------------------------- what to do


@dataclass
class _Job:
    group: Group
    scheme: Shrink | None
    reason: str
    """Why it is left alone; empty when it is not."""
    scores: Tensor | None = None
    kept: Tensor | None = None
    """Which units stay, bool."""

    @property
    def step(self) -> int:
        """Units that make a multiple of ``round_to`` channels."""
        assert self.scheme is not None
        return self.scheme.round_to // math.gcd(self.scheme.round_to, self.group.width)

    def keep(self, count: int) -> None:
        """Settles which units stay: the best ones, in the nearest number that ``round_to`` allows."""
        assert self.scores is not None
        rounded = self.step * max(1, nearest(count / self.step))
        if rounded >= self.group.size:
            self.reason = f"{count} of its {self.group.size} {self.group.kind} round to no less, by {self.step}"
            if count == self.group.size:
                self.reason = "nothing of it was to go"
            return
        self.kept = ~lowest(self.scores[None], self.group.size - rounded)[0]


def _plan(model: nn.Module, config: Config, groups: list[Group], owners: Owners) -> list[_Job]:
    names = list(dict.fromkeys([*(name for group in groups for name in group.layers), *_layer_names(model)]))
    if isinstance(config, PerLayer):
        try:
            rules = match(config.rules, names)
        except ValueError as error:
            raise PruneError(f"config: {error}") from None
    else:
        rules = {name: Match(DEFAULT, config) for name in names}
    grouped = {name for group in groups for name in group.layers}
    for name, rule in rules.items():
        if rule.rank == 2 and rule.value is not None and name not in grouped:
            raise PruneError(f"config: {name!r} is named but cannot be shrunk: {_UNKNOWN}")
    return [_job(group, rules, owners) for group in groups]


def _job(group: Group, rules: Mapping[str, Match[Any]], owners: Owners) -> _Job:
    found = {name: rules[name] for name in group.layers if name in rules}
    rank = max((rule.rank for rule in found.values()), default=0)
    direct = {name: rule for name, rule in found.items() if rule.rank == rank}
    if len({rule.value for rule in direct.values()}) > 1:
        said = ", ".join(f"{rule.value!r} for {name!r}" for name, rule in direct.items())
        raise PruneError(f"config: these layers can only lose the same {group.kind}, but the rules say {said}")
    rule = next(iter(direct.values()), None)
    if rule is None:
        return _Job(group, None, "no rule speaks for it, and there is no '_default'")
    if rule.value is None:
        return _Job(group, None, f"the rule {rule.rule!r} is None")
    reason = obstacle(group, owners)
    if not reason and group.mixing and not rule.value.through_norms:
        reason = f"{group.mixing} is computed over all of its channels; Shrink(..., through_norms=True) allows for it"
    if reason and rank == 2:
        raise PruneError(f"config: {rule.rule!r} is named but cannot be shrunk: {reason}")
    return _Job(group, rule.value, reason)


def _choose(model: nn.Module, jobs: list[_Job], data: Iterable[Any] | None, owners: Owners) -> None:
    """Scores units and settles which stay."""
    _score(model, jobs, data, owners)
    shared: dict[Shrink, list[_Job]] = defaultdict(list)
    for job in _open(jobs):
        assert job.scheme is not None
        assert job.scores is not None
        if not job.scores.isfinite().all():
            raise PruneError(
                f"the weights of {', '.join(map(repr, job.group.layers))}, or of the layers that read their outputs, "
                "hold NaN or infinity; repair them (torch.nan_to_num_), or leave them alone with the rule None"
            )
        if job.scheme.scope == "global":
            shared[job.scheme].append(job)
        else:
            job.keep(job.group.size - nearest(job.scheme.share * job.group.size))
    for scheme, together in shared.items():
        masks = global_masks([job.scores[None] for job in together if job.scores is not None], scheme)
        for job, mask in zip(together, masks, strict=True):
            job.keep(int(mask.sum()))


def _score(model: nn.Module, jobs: list[_Job], data: Iterable[Any] | None, owners: Owners) -> None:
    watchers: dict[nn.Module, Norms] = {}
    for job in _open(jobs, "wanda"):
        modules = readers(job.group, owners)
        if not modules or not all(isinstance(module, nn.Linear | nn.Conv2d) for module in modules):
            job.reason = (
                "wanda judges units by the linear and 2-d convolution layers that read them, and this has others"
            )
        else:
            watchers.update({module: Norms(module) for module in modules})
    if watchers:
        if data is None:
            raise PruneError("data: method='wanda' needs calibration data; pass an iterable of batches")
        gather(model, watchers, data)
    for job in _open(jobs):
        assert job.scheme is not None
        if job.scheme.method == "magnitude":
            job.scores = magnitudes(job.group)
        elif job.scheme.method == "random":
            job.scores = random_scores(job.group, job.scheme.seed)
        elif all(watchers[module].seen(job.group.name) for module in readers(job.group, owners)):
            job.scores = contributions(job.group, owners, watchers)
        else:
            job.reason = "the calibration data never reached a layer that reads it"


def _open(jobs: list[_Job], method: str = "") -> list[_Job]:
    return [job for job in jobs if not job.reason and job.scheme and method in ("", job.scheme.method)]


def _cuts(jobs: list[_Job]) -> list[Cut]:
    return [Cut(job.group, job.kept) for job in _open(jobs) if job.kept is not None]


# ---------------------------------------------------------------------------------------------- does it hold?


def _isolate_failures(journal: Journal, model: nn.Module, jobs: list[_Job], batch: Any) -> None:
    """Tries all cuts at once; where that does not work, each by itself, and leaves the guilty groups alone.

    Those whose results cannot be foretold come last, so that they do not hide what is wrong with others.
    """
    exact = [job for job in _open(jobs) if not job.group.mixing]
    if len(exact) < len(_open(jobs)) and exact:
        _isolate_failures(journal, model, exact, batch)
    if not _failure(journal, model, _cuts(jobs), batch):
        return
    for job in _open(jobs):
        job.reason = _failure(journal, model, _cuts([job]), batch)
    together = _failure(journal, model, _cuts(jobs), batch)
    if together:
        raise PruneError(f"each group can be shrunk by itself, but not all of them together: {together}")


def _failure(journal: Journal, model: nn.Module, cuts: list[Cut], batch: Any) -> str:
    """What is wrong with a model without these units; empty when nothing is."""
    if not cuts:
        return ""
    with journal.trying():
        journal.silence(cut for cut in cuts if not cut.group.mixing)
        expected = call_model(model, batch)
    with journal.trying():
        journal.take_out(cuts)
        try:
            got = call_model(model, batch)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return f"the model's code does not run without them: {lines[0]}"
    if [out.shape for out in got] != [out.shape for out in expected]:
        return f"outputs would become {[list(out.shape) for out in got]}, from {[list(out.shape) for out in expected]}"
    if any(cut.group.mixing for cut in cuts) or all(map(_close, got, expected)):
        return ""
    return "taken out, they change more than what they said to the layers that read them"


def _close(got: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding, which is of another order in smaller products."""
    if not got.is_floating_point():
        return torch.equal(got, expected)
    tolerance = 1e-4 if got.dtype in (torch.float32, torch.float64) else 3e-2
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(got, expected, rtol=0, atol=tolerance * scale, equal_nan=True)


# ---------------------------------------------------------------------------------------------- before and after


def _check_not_idle(jobs: list[_Job]) -> None:
    if _cuts(jobs):
        return
    if not jobs:
        raise PruneError("nothing to shrink: example_inputs reach no linear or convolution layer")
    lines = [f"  {job.group.kind} of {job.group.name!r}: {job.reason}" for job in jobs]
    raise PruneError("\n".join([f"nothing to shrink: all {len(jobs)} groups are left alone", *lines]))


def _layer_names(model: nn.Module) -> list[str]:
    return [name for layer in find_layers(model) for name in layer.names]


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def _size(model: nn.Module, batch: Any) -> Size:
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator for a whole layer, which is not counted
    try:
        with FlopCounterMode(display=False) as counter:
            call_model(model, batch)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    parameters, buffers = list(model.parameters()), list(model.buffers())
    nbytes = sum(tensor.numel() * tensor.element_size() for tensor in [*parameters, *buffers])
    return Size(sum(parameter.numel() for parameter in parameters), nbytes, counter.get_total_flops() // 2)


def _row(job: _Job) -> ShrinkRow:
    group, scheme = job.group, job.scheme
    if job.reason or scheme is None or job.kept is None:
        return ShrinkRow(group.name, group.layers, group.kind, "", 0.0, group.size, group.size, job.reason)
    after = int(job.kept.sum())
    return ShrinkRow(group.name, group.layers, group.kind, scheme.method, scheme.share, group.size, after, "")


def _rows_without_group(model: nn.Module, jobs: list[_Job]) -> list[ShrinkRow]:
    known = {name for job in jobs for name in job.group.layers}
    layers = [layer for layer in find_layers(model) if known.isdisjoint(layer.names)]
    sizes = [layer.shape[0] if layer.shape else 0 for layer in layers]
    return [
        ShrinkRow(layer.name, layer.names, "channels", "", 0.0, size, size, _UNKNOWN)
        for layer, size in zip(layers, sizes, strict=True)
    ]
