"""What each kind of stage does to the model, with the library's own functions."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from edgekern.calibration.observe import arguments, inference
from edgekern.checkpoint.atomic import written_whole
from edgekern.compress.data import CALIBRATION, TRAINING, CompressData
from edgekern.compress.measure import Quality, measure
from edgekern.compress.record import Measured
from edgekern.compress.structure import example_of, narrows, restructured
from edgekern.compress.subject import Subject
from edgekern.config import (
    Config,
    ConvertStage,
    DistilStage,
    EvaluateStage,
    FineTuneStage,
    PerLayer,
    PruneStage,
    QuantizeStage,
    Scheme,
    Stage,
    config_from_dict,
)
from edgekern.convert import convert_
from edgekern.distill import Distiller, DistillError, Hidden, map_layers
from edgekern.distill.outputs import logits_of
from edgekern.match import DEFAULT
from edgekern.prune import PruneReport, prune_
from edgekern.qat import undo_qat_
from edgekern.quantize import quantize_
from edgekern.train import Callback, KeepZeros, PrepareQAT, PruneGradually, fit
from edgekern.train.generators import kept_generators, seed_all
from edgekern.train.training import Loss

CONVERSION = "conversion.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "training.pt"


@dataclass
class Task:
    """What a stage is given.

    Attributes:
        stage: with its options.
        folder: to write into.
        model: as the stage before left it; changed in place, or replaced.
        subject: gives the model that the run began with.
        data: of the run.
        prepared: what stages before have rounded weights to, or trained for, since the last conversion.
        same_layers: whether the model still has all its layers, as wide as they were.
        progress: whether bars are shown.
    """

    stage: Stage
    folder: Path
    model: nn.Module
    subject: Subject
    data: CompressData
    prepared: Config | None
    same_layers: bool
    progress: bool


@dataclass(frozen=True)
class Outcome:
    """What a stage reports, beside the model."""

    notes: tuple[str, ...] = ()
    measured: Measured | None = None
    conversion: Config | None = None
    """What weights were rounded to, trained for or converted by."""


def carry_out(task: Task) -> Outcome:
    """Does what the stage says, to ``task.model``."""
    return _STEPS[task.stage.kind](task)


# ---------------------------------------------------------------------------------------------- pruning and rounding


def _prune(task: Task) -> Outcome:
    stage = _of(task.stage, PruneStage)
    report = prune_(
        task.model, stage.scheme, task.data.calibration, sequential=stage.sequential, progress=task.progress
    )
    return Outcome(_pruned(report))


def _pruned(report: PruneReport) -> tuple[str, ...]:
    zeros = f"{len(report.pruned)} layers pruned, {report.sparsity:.1%} of all weights looked at are zero"
    return (zeros, *_left_alone(report.skipped))


def _quantize(task: Task) -> Outcome:
    stage = _of(task.stage, QuantizeStage)
    report = quantize_(task.model, stage.scheme, task.data.part(CALIBRATION), progress=task.progress)
    remarks = tuple(f"{row.name}: {row.note}" for row in report.quantized if row.note)
    return Outcome((*remarks, *_left_alone(report.skipped)), conversion=report.config)


def _convert(task: Task) -> Outcome:
    stage = _of(task.stage, ConvertStage)
    config = joined(task.prepared, stage.scheme)
    assert config is not None  # a recipe without either is refused
    report = convert_(task.model, config, data=task.data.calibration, progress=task.progress)
    return Outcome((report.totals, *_left_alone(report.skipped)), conversion=config)


def joined(prepared: Config | None, others: Config | None) -> Config | None:
    """What layers were prepared for, and what others shall become; the former have exact names, which count first."""
    if prepared is None or others is None:
        return prepared or others
    rules: dict[str, Scheme | None] = {}
    for config in (others, prepared):
        rules.update(config.rules if isinstance(config, PerLayer) else {DEFAULT: config})
    return PerLayer(rules)


# ---------------------------------------------------------------------------------------------- training


def _fine_tune(task: Task) -> Outcome:
    stage = _of(task.stage, FineTuneStage)
    return _train(task, stage, task.data.loss, ())


def _distil(task: Task) -> Outcome:
    stage = _of(task.stage, DistilStage)
    teacher = task.subject.fresh()
    task.model = restructured(task.model, stage, task.data)
    if narrows(stage):
        task.subject.check(task.model, stage)
    soft = float(_has_logits(task.model, example_of(stage, task.data))) if stage.soft is None else stage.soft
    layers = _pairs(task.model, teacher, stage.hidden)
    hidden = Hidden(layers, 1.0 if stage.hidden is None else stage.hidden) if layers else None
    with kept_generators():
        seed_all(stage.fit.seed)  # projections of layers that became narrower begin at random
        distiller = Distiller(
            task.model,
            teacher,
            temperature=stage.temperature,
            soft=soft,
            hard=stage.hard,
            hidden=hidden,
            causal=task.data.causal,
            example_inputs=task.data.first(TRAINING),
        )
    learnt = [f"logits with weight {soft:g}"] * (soft > 0) + [f"{len(layers)} blocks inside"] * bool(layers)
    return _train(task, stage, distiller, (f"learnt from {' and '.join(learnt) or 'labels'}",))


def _train(task: Task, stage: FineTuneStage | DistilStage, loss: Loss, notes: tuple[str, ...]) -> Outcome:
    callbacks: list[Callback] = [KeepZeros()] if stage.keep_zeros and stage.prune is None else []
    gradual = None
    if stage.prune is not None and stage.schedule is not None:  # it keeps the zeros that are there, too
        gradual = PruneGradually(stage.prune, stage.schedule, task.data.calibration)
        callbacks.append(gradual)
    prepare = PrepareQAT(stage.qat) if stage.qat is not None else None
    if prepare is not None:
        callbacks.append(prepare)
    result = fit(
        task.model,
        task.data.part(TRAINING),
        loss,
        stage.fit,
        callbacks=callbacks,
        evaluate=Quality(task.data, task.subject) if stage.needs_evaluation else None,
        checkpoint=task.folder / CHECKPOINT,
        log=task.folder / METRICS,
        progress=task.progress,
    )
    early = ", stopped early" if result.stopped_early else ""
    cast = "" if result.autocast is None else f" in {result.autocast}".replace("torch.", "")
    said = f"{result.steps} steps{cast}{early}, the last with a loss of {result.loss:.4g}"
    if gradual is not None:
        notes = (*notes, *_pruned_gradually(gradual))
    if prepare is None or prepare.report is None:
        return Outcome((said, *notes))
    undo_qat_(task.model)  # what is stored are floats either way, and so a run that goes on has the same model
    return Outcome((said, *notes, *_left_alone(prepare.report.skipped)), conversion=prepare.report.config)


def _pruned_gradually(gradual: PruneGradually) -> tuple[str, ...]:
    """What a report would say; of a training that goes on after its last pruning there is none."""
    assert gradual.pruner is not None
    masks = [mask for mask in gradual.pruner.lock.masks.values() if not mask.all()]
    zeros, total = sum(int((~mask).sum()) for mask in masks), sum(mask.numel() for mask in masks)
    said = f"{len(masks)} layers pruned, {zeros / max(1, total):.1%} of their weights are zero"
    return (said, *(_left_alone(gradual.report.skipped) if gradual.report else ()))


def _has_logits(model: nn.Module, example: Any) -> bool:
    """Whether it gives logits for a batch without labels."""
    args, kwargs = arguments(example)
    try:
        with inference(model):
            logits_of(model(*args, **kwargs), "student")
    except DistillError:
        return False
    return True


def _pairs(student: nn.Module, teacher: nn.Module, weight: float | None) -> dict[str, str]:
    """Blocks that go together; none of models without such stacks, unless they are asked for by a weight."""
    if weight == 0:
        return {}
    try:
        return map_layers(student, teacher)
    except DistillError:
        if weight is not None:
            raise
        return {}


# ---------------------------------------------------------------------------------------------- all of them


def _evaluate(task: Task) -> Outcome:
    stage = _of(task.stage, EvaluateStage)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    busy = () if load is None else (f"the machine's load was {load:.2f} at the beginning, this run included",)
    found = measure(task.model, stage, task.data, task.subject, task.folder, task.same_layers)
    return Outcome(busy, measured=found)


_STEPS: dict[str, Callable[[Task], Outcome]] = {
    PruneStage.kind: _prune,
    DistilStage.kind: _distil,
    FineTuneStage.kind: _fine_tune,
    QuantizeStage.kind: _quantize,
    ConvertStage.kind: _convert,
    EvaluateStage.kind: _evaluate,
}


def write_conversion(folder: Path, config: Config) -> None:
    """Keeps what to convert by, for later stages; the inverse is :func:`read_conversion`."""
    with written_whole(folder / CONVERSION) as part:
        part.write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf-8")


def read_conversion(folder: Path) -> Config | None:
    """What a stage has settled to convert by; None where it has not."""
    path = folder / CONVERSION
    return config_from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


class _Row(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def reason(self) -> str: ...


def _left_alone(rows: Iterable[_Row]) -> tuple[str, ...]:
    """A sentence for each reason, with the layers that it is true of."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        reasons[row.reason].append(row.name)
    return tuple(f"left alone, {_listed(names)}: {reason}" for reason, names in reasons.items())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} others"


def _of(stage: Stage, kind: type[Any]) -> Any:
    assert isinstance(stage, kind)
    return stage
