"""What a compression run leaves behind in ``OUT/run.json``: its stages, what went in and out, what was measured.

``edgekern compress`` writes it after each stage, ``edgekern report`` reads it. Paths are relative to OUT.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FILE = "run.json"
FORMAT = 1


@dataclass(frozen=True)
class LayerRecord:
    """One layer after a stage.

    Attributes:
        name: as in ``named_modules``.
        form: what it computes with ("float32", "int8", "int8 1x4 blocks" ...).
        parameters: how many weights it has, pruned ones included.
        bytes: what its weights take on disk.
        milliseconds: of one call on the evaluated batch; None when not measured.
        error: relative error of its output, ``|y - y_float| / |y_float|``; None when not measured.
    """

    name: str
    form: str
    parameters: int
    bytes: int
    milliseconds: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Measured:
    """A model, measured by an evaluate stage. The first of a run measures the model it began with.

    Attributes:
        metric: what the quality is ("accuracy", "perplexity", "word similarity" ...).
        higher_is_better: whether more of it is better.
        quality: its value.
        bytes_on_disk: the saved checkpoint's size.
        bytes_in_memory: its parameters, buffers and packed weights.
        milliseconds: median of one call, by number of threads.
        joules: of one call, by number of threads; None where no sensor is readable.
        joules_reason: why there are no joules; None where there are.
        layers: each layer with weights.
    """

    metric: str
    higher_is_better: bool
    quality: float
    bytes_on_disk: int
    bytes_in_memory: int
    milliseconds: dict[int, float]
    joules: dict[int, float] | None = None
    joules_reason: str | None = None
    layers: tuple[LayerRecord, ...] = ()


@dataclass(frozen=True)
class StageRecord:
    """One stage that has ended.

    Attributes:
        name: as the recipe calls it; unique within a run.
        kind: ``prune``, ``distil``, ``fine_tune``, ``quantize``, ``convert`` or ``evaluate``.
        seconds: how long it took, interrupted attempts not counted.
        inputs: sha256 of what went in: the stage's options, the model before it, the code's version.
        outputs: sha256 of each file that it wrote, by path.
        metrics: the JSONL file of its training; None for stages that do not train.
        measured: what an evaluate stage found; None for the others.
        notes: what else it reports, one sentence each (layers left alone, and why).
    """

    name: str
    kind: str
    seconds: float
    inputs: str
    outputs: dict[str, str]
    metrics: str | None = None
    measured: Measured | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """A run, as far as it has come.

    Attributes:
        model: what was compressed, as the user named it.
        recipe: the recipe's name.
        machine: ``edgekern.machine``'s description of where it ran.
        stages: those that have ended, in order.
        complete: whether all of the recipe's stages have.
    """

    model: str
    recipe: str
    machine: dict[str, Any]
    stages: tuple[StageRecord, ...] = field(default=())
    complete: bool = False
