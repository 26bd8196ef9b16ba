"""Scaling input channels of layers, and dividing what produces them, so that the float model computes the same.

Everything is settled while the model is as it was: which layers share an input, what can take the division, and the
scales. Then all is done at once. Migrations do not get in each other's way: one scales rows of a matrix, another
columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekern.calibration.journal import Replace
from edgekern.calibration.observe import Inputs
from edgekern.calibration.walk import Walk
from edgekern.config import Migrating
from edgekern.nn.layers import tied_weights
from edgekern.quantize.job import Job
from edgekern.quantize.producers import Given, find_given
from edgekern.quantize.scales import find_scale
from edgekern.quantize.task import QuantizeError
from edgekern.quantize.trial import Trials, divide, multiply

_NO_PRODUCER = "channels not scaled: nothing before it can take the division"


@dataclass
class _Move:
    """One migration that is settled."""

    source: nn.Module
    layers: list[nn.Module]
    scale: Tensor


def migrate(
    model: nn.Module, jobs: Mapping[nn.Module, Job], walk: Walk, batch: object, replace: Replace
) -> None:
    """Scales the input channels of the layers whose scheme asks for it; the jobs are told what became of them.

    Args:
        model: as it is.
        jobs: all layers that will be quantised.
        walk: through the model, of the same layers.
        batch: what producers are looked for and tried with.
        replace: changes a weight.

    Raises:
        QuantizeError: weights that cannot be rounded as asked, or that their dtype cannot hold any more.
    """
    asked = [job for job in jobs.values() if isinstance(job.scheme, Migrating)]
    lots: dict[nn.Module | None, list[Given]] = {None: []}  # what is in no one block first, the others in order
    ties = tied_weights(model)
    for given in find_given(model, jobs.keys(), batch):
        reason = _objection(given, jobs, ties)
        for layer in given.readers:
            if reason and layer in jobs and isinstance(jobs[layer].scheme, Migrating):
                jobs[layer].notes.append(f"channels not scaled: {reason}")
        if not reason:
            lots.setdefault(walk.block_of(given.readers), []).append(given)
    trials, moves = Trials(model, walk, batch), []
    for block, lot in lots.items():
        if lot:
            moves += _settled(lot, block, jobs, walk, trials)
    names = {module: name for name, module in model.named_modules()}
    for move in moves:
        _carry_out(move, replace)
        for layer in move.layers:
            jobs[layer].scale, jobs[layer].source = move.scale, names[move.source]
    for job in asked:
        if job.scale is None and not job.notes:
            job.notes.append("channels not scaled: the first batch does not reach it")


def _objection(given: Given, jobs: Mapping[nn.Module, Job], ties: Mapping[nn.Module, str]) -> str:
    """Why the layers that read this cannot be migrated together; also when none was to be, so that nobody is told."""
    mine = [jobs[layer] for layer in given.readers if layer in jobs]
    asked = [job for job in mine if isinstance(job.scheme, Migrating)]
    if not asked:
        return "nobody asks for it"
    if len(mine) < len(given.readers):
        return "another linear layer, which is left alone, reads the same input"
    first = asked[0]
    assert isinstance(first.scheme, Migrating)
    for job in mine:
        if not first.scheme.migrates_like(job.scheme):
            return f"{job.name!r} reads the same input, and its rule is another"
        if job.layer.module in ties:
            return f"the weight of {job.name!r}, which reads this input, is also {ties[job.layer.module]!r}"
    return ""


def _settled(
    lot: list[Given], block: nn.Module | None, jobs: Mapping[nn.Module, Job], walk: Walk, trials: Trials
) -> list[_Move]:
    """The migrations of inputs that are all within ``block``, or anywhere. Nothing is changed."""
    watchers = {given.readers[0]: Inputs(given.readers[0]) for given in lot}
    walk.gather(watchers)
    moves = []
    for given in lot:
        mine, watcher = [jobs[layer] for layer in given.readers], watchers.pop(given.readers[0])
        if not watcher.seen(mine[0].name) or not watcher.rows.numel():
            continue
        candidates = given.candidates(block)
        source = next((c for c in candidates if trials.takes(c, given.readers, given.features, block)), None)
        if source is None:
            note, scale = _NO_PRODUCER, None
        else:
            note, scale = "channels not scaled: that would not lower the error", _scale(mine, watcher)
        if source is None or scale is None:
            for job in mine:
                job.notes.append(note)
        else:
            moves.append(_Move(source, given.readers, scale))
    return moves


def _scale(jobs: list[Job], watcher: Inputs) -> Tensor | None:
    scheme = jobs[0].scheme
    assert isinstance(scheme, Migrating)
    try:
        return find_scale(scheme, [(job.weight.float(), job.scheme.target) for job in jobs], watcher)
    except ValueError as error:
        said = " or ".join(repr(job.name) for job in jobs)
        raise QuantizeError(f"{said} cannot be rounded as asked: {error}") from None


def _carry_out(move: _Move, replace: Replace) -> None:
    divide(move.source, move.scale, replace)
    for layer in move.layers:
        multiply(layer, move.scale, replace)
    for module in (move.source, *move.layers):
        if not all(parameter.isfinite().all() for parameter in module.parameters(recurse=False)):
            raise QuantizeError(f"scaling channels takes a weight beyond {next(module.parameters()).dtype}; use bfloat16")
