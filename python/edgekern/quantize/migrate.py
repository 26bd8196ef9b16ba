"""Scaling input channels of layers, and dividing what produces them, so that the float model computes the same.

Everything is settled while the model is as it was: which layers share an input, what can take the division, and the
scales. Then all is done at once. Migrations do not get in each other's way: one scales rows of a matrix, another
columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from edgekern.calibration.journal import Replace
from edgekern.calibration.observe import Inputs
from edgekern.calibration.walk import Walk
from edgekern.config import Migrating
from edgekern.nn.layers import tied_weights
from edgekern.quantize.job import Job
from edgekern.quantize.producers import Given, Survey, look
from edgekern.quantize.scales import find_scale
from edgekern.quantize.task import QuantizeError
from edgekern.quantize.trial import Trials, divide, multiply


@dataclass
class Move:
    """One migration that is settled: channels of ``source`` are to be divided, those of ``layers`` multiplied."""

    source: nn.Module
    layers: list[nn.Module]
    scale: Tensor


def migrate(model: nn.Module, jobs: Mapping[nn.Module, Job], walk: Walk, batch: object, replace: Replace) -> None:
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
    survey = look(model, jobs.keys(), batch)
    settling, moves = _Settling(model, jobs, walk, survey, Trials(model, walk, batch)), list[Move]()
    lots: dict[nn.Module | None, list[Given]] = {None: []}  # what is in no one block first, the others in order
    for given in survey.given:
        if any(layer in jobs and _migrates(jobs[layer]) for layer in given.readers):
            lots.setdefault(walk.block_of(given.readers), []).append(given)
    for block, lot in lots.items():
        moves += settling.moves_of(lot, block)
    names = {module: name for name, module in model.named_modules()}
    for move in moves:
        _carry_out(move, replace)
        for layer in move.layers:
            jobs[layer].scale, jobs[layer].source = move.scale, names[move.source]
    for layer, job in jobs.items():
        if _migrates(job) and layer not in survey.met:
            job.notes.append("channels not scaled: the first batch does not reach it")


@dataclass
class _Settling:
    """Finds out what can be migrated, by how much, and tells the jobs what cannot. Changes nothing."""

    model: nn.Module
    jobs: Mapping[nn.Module, Job]
    walk: Walk
    survey: Survey
    trials: Trials

    def __post_init__(self) -> None:
        self._ties = tied_weights(self.model)

    def moves_of(self, lot: list[Given], block: nn.Module | None) -> list[Move]:
        """The migrations of inputs whose readers are all in ``block``, or anywhere."""
        moves, possible = [], []
        for given in lot:
            reason = self._objection(given)
            possible += [] if reason else [given]
            self._note(given, reason)
        watchers = {given.readers[0]: Inputs(given.readers[0]) for given in possible}
        if watchers:
            self.walk.gather(watchers)
        for given in possible:
            watcher = watchers.pop(given.readers[0])  # freed once it was used
            source, reason = self._source(given, block)
            if source is not None and watcher.seen(self.jobs[given.readers[0]].name):
                scale = self._scale(given, watcher)
                if scale is not None:
                    moves.append(Move(source, given.readers, scale))
                    continue
                reason = "no scale lowers the error"
            self._note(given, reason)
        return moves

    def _objection(self, given: Given) -> str:
        """Why the layers that read this cannot be scaled together; empty when they can."""
        asking = next(layer for layer in given.readers if layer in self.jobs and _migrates(self.jobs[layer]))
        scheme = self.jobs[asking].scheme
        assert isinstance(scheme, Migrating)
        for layer in given.readers:
            job = self.jobs.get(layer)
            if job is None:
                return "another linear layer reads the same input, and is left alone"
            if not scheme.migrates_like(job.scheme):
                return f"{job.name!r} reads the same input, and its rule is another"
            if layer in self._ties:
                return f"{job.name!r} reads this input, and its weight is also {self._ties[layer]!r}"
        return ""

    def _source(self, given: Given, block: nn.Module | None) -> tuple[nn.Module | None, str]:
        """What can take the division, or why nothing can."""
        reason = "nothing before it can take the division"
        for candidate in given.candidates(block):
            alone = block is not None and block in self.survey.around[candidate]  # nothing outside sees its output
            scope = block if alone and block is not None else self.model
            missed = [name for name, module in scope.named_modules() if self._is_missed(module)]
            if missed:  # it may read the same for other data
                reason = f"the first batch does not reach {missed[0]!r}, which may read the same input"
            elif self.trials.takes(candidate, given.readers, given.features, scope if scope is block else None):
                return candidate, ""
        return None, reason

    def _is_missed(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear) and module not in self.survey.met

    def _scale(self, given: Given, watcher: Inputs) -> Tensor | None:
        jobs = [self.jobs[layer] for layer in given.readers]
        scheme = jobs[0].scheme
        assert isinstance(scheme, Migrating)
        try:
            return find_scale(scheme, [(job.weight.float(), job.scheme.target) for job in jobs], watcher)
        except ValueError as error:
            said = " or ".join(repr(job.name) for job in jobs)
            raise QuantizeError(f"{said} cannot be rounded as asked: {error}") from None

    def _note(self, given: Given, reason: str) -> None:
        for layer in given.readers:
            if reason and layer in self.jobs and _migrates(self.jobs[layer]):
                self.jobs[layer].notes.append(f"channels not scaled: {reason}")


def _migrates(job: Job) -> bool:
    return isinstance(job.scheme, Migrating)


def _carry_out(move: Move, replace: Replace) -> None:
    divide(move.source, move.scale, replace)
    for layer in move.layers:
        multiply(layer, move.scale, replace)
    for module in (move.source, *move.layers):
        for parameter in module.parameters(recurse=False):
            if not parameter.isfinite().all():
                raise QuantizeError(f"scaling channels takes a weight beyond {parameter.dtype}; use torch.bfloat16")
