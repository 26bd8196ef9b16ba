"""``shrink_``: channels and heads taken out of a float model in place, all that was asked for or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgekern.calibration.observe import check_data
from edgekern.calibration.program import call_model
from edgekern.config import Config, check_config
from edgekern.nn.layers import find_layers
from edgekern.plan import check_model
from edgekern.prune.structured.choose import UNREACHED, Job, choose_units, cuts_of, plan_jobs
from edgekern.prune.structured.config import mend_config
from edgekern.prune.structured.cut import Cut, Journal
from edgekern.prune.structured.groups import find_groups, owners_of
from edgekern.prune.structured.report import ShrinkReport, ShrinkRow, Size
from edgekern.prune.structured.trace import trace
from edgekern.prune.structured.trial import isolate_failures
from edgekern.prune.task import PruneError


def shrink_(model: nn.Module, config: Config, example_inputs: Any, data: Iterable[Any] | None = None) -> ShrinkReport:
    """Takes channels and attention heads out of ``model``, in place: all that was asked for, or nothing.

    Which channels can only go together is found by following them through the model as ``torch.export`` traces it:
    through activations, normalisation, residual sums, concatenation, reshapes, depthwise convolutions and attention.
    The model's own inputs and outputs keep their sizes. The result is an ordinary float model with smaller layers.

    Before anything is final, the model runs on ``example_inputs`` twice, once with the units taken out and once with
    the same units whole but unread; groups for which the results differ are left alone.

    Parameters that become smaller are new objects: make optimizers afterwards. ``shrink_like_`` gives a freshly built
    model the shapes of a saved one. A Hugging Face model gets a ``config`` of its new sizes, for ``from_pretrained`` to
    build it by; where none describes it, as with blocks of several sizes, it keeps the old one, and the report says so.

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
    check_model(model, "shrink", PruneError)
    check_config(config, "shrink_")
    check_data(data)
    owners = owners_of(model)
    jobs = plan_jobs(model, config, find_groups(model, trace(model, example_inputs)), owners)
    choose_units(model, jobs, data, owners)
    before, shapes = _size(model, example_inputs), _shapes(model)
    journal = Journal(model, owners)
    with journal.all_or_nothing():
        isolate_failures(journal, model, jobs, example_inputs)
        _check_not_idle(jobs)
        journal.take_out(cuts_of(jobs))
        after = _size(model, example_inputs)
        config_note = mend_config(journal, model, cuts_of(jobs), example_inputs)
    changed = {name: (shapes[name], shape) for name, shape in _shapes(model).items() if shape != shapes[name]}
    return ShrinkReport((*map(_row, jobs), *_rows_without_group(model, jobs)), changed, before, after, config_note)


def shrink_like_(model: nn.Module, state: Mapping[str, Tensor], example_inputs: Any) -> None:
    """Gives a freshly built model the shapes of one that was shrunk, so that it can load its state dict.

    Its values have no meaning until then. All or nothing, as ``shrink_``; a Hugging Face ``config`` likewise.

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
        # A dimension that is the group's alone tells how many of its units are left.
        span = next((span for span in group.spans if bool((span.unit >= 0).all())), group.spans[0])
        wanted, width = state.get(names.get(id(span.axis.tensor), "")), len(span.unit) // group.size
        if wanted is not None and span.axis.dim < wanted.ndim and 0 < wanted.shape[span.axis.dim] < len(span.unit):
            cuts.append(Cut(group, torch.arange(group.size) < wanted.shape[span.axis.dim] // width))
    journal = Journal(model, owners_of(model))
    with journal.all_or_nothing():
        journal.take_out(cuts)
        for name, shape in _shapes(model).items():
            if name in state and tuple(state[name].shape) != shape:
                raise PruneError(
                    f"state: {name!r} has shape {list(state[name].shape)}; without the channels and heads that are "
                    f"gone from others, this model's has {list(shape)}. Is it built as the one that was shrunk?"
                )
        mend_config(journal, model, cuts, example_inputs)


# ---------------------------------------------------------------------------------------------- before and after


def _check_not_idle(jobs: list[Job]) -> None:
    if cuts_of(jobs):
        return
    if not jobs:
        raise PruneError("nothing to shrink: example_inputs reach no linear or convolution layer")
    lines = [f"  {job.group.kind} of {job.group.name!r}: {job.reason}" for job in jobs]
    raise PruneError("\n".join([f"nothing to shrink: all {len(jobs)} groups are left alone", *lines]))


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


def _row(job: Job) -> ShrinkRow:
    group, scheme = job.group, job.scheme
    if job.reason or scheme is None or job.kept is None:
        return ShrinkRow(group.name, group.layers, group.kind, "", 0.0, group.size, group.size, job.reason)
    after = int(job.kept.sum())
    return ShrinkRow(group.name, group.layers, group.kind, scheme.method, scheme.share, group.size, after, "")


def _rows_without_group(model: nn.Module, jobs: list[Job]) -> list[ShrinkRow]:
    known = {name for job in jobs for name in job.group.layers}
    layers = [layer for layer in find_layers(model) if known.isdisjoint(layer.names)]
    sizes = [layer.shape[0] if layer.shape else 0 for layer in layers]
    return [
        ShrinkRow(layer.name, layer.names, "channels", "", 0.0, size, size, UNREACHED)
        for layer, size in zip(layers, sizes, strict=True)
    ]
