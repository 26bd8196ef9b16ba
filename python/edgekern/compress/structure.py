"""What stages make of a model's structure: a student of fewer blocks, or narrower ones, and building it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekern.checkpoint import stored_shapes
from edgekern.compress.data import TRAINING, CompressData
from edgekern.config import DistilStage, Stage
from edgekern.distill import block_stacks, student_from
from edgekern.distill.batch import taken_apart
from edgekern.prune.structured import shrink_like_


def narrows(stage: Stage) -> bool:
    """Whether a stage takes channels and heads out of layers."""
    return isinstance(stage, DistilStage) and stage.width is not None


def restructures(stage: Stage) -> bool:
    """Whether layers are others after a stage, or some are gone."""
    return isinstance(stage, DistilStage) and (stage.layers, stage.width) != (None, None)


def restructured(model: nn.Module, stage: Stage, data: CompressData) -> nn.Module:
    """A model with the blocks, channels and heads that a stage leaves."""
    if not isinstance(stage, DistilStage) or not restructures(stage):
        return model
    example = example_of(stage, data) if narrows(stage) else None
    return student_from(model, _blocks(model, stage), stage.width, example)


def rebuilt(model: nn.Module, stage: Stage, data: CompressData, folder: Path) -> nn.Module:
    """A model with the structure that a stage has left and written; what it holds means nothing yet.

    Not by doing again what the stage did: which channels can go is tried, and so it may hang on the weights.
    """
    if not isinstance(stage, DistilStage) or not restructures(stage):
        return model
    if stage.layers is not None:
        model = student_from(model, _blocks(model, stage))
    if narrows(stage):
        shapes = stored_shapes(folder)
        state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        shrink_like_(model, state, example_of(stage, data))
    return model


def example_of(stage: DistilStage, data: CompressData) -> Any:
    """What the model is called with for the first batch to train with, from which labels are taken away."""
    lesson = taken_apart(data.first(TRAINING), labelled=stage.hard > 0, numbered=False)
    return lesson.kwargs or lesson.args


def _blocks(model: nn.Module, stage: DistilStage) -> int | dict[str, int] | None:
    """How many to keep, as ``student_from`` takes it."""
    if not isinstance(stage.layers, float):
        return stage.layers
    counts = {name: max(1, round(stage.layers * len(stack))) for name, stack in block_stacks(model).items()}
    return counts or 1  # where there are no stacks, that says so
