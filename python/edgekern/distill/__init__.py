"""Distillation: a model that learns from another."""

from __future__ import annotations

from edgekern.distill.cached import CachedLogits, cache_logits
from edgekern.distill.distiller import Distiller
from edgekern.distill.errors import DistillError
from edgekern.distill.inside import Attention, Hidden
from edgekern.distill.layers import block_stacks, map_layers
from edgekern.distill.student import student_from

__all__ = [
    "Attention",
    "CachedLogits",
    "DistillError",
    "Distiller",
    "Hidden",
    "block_stacks",
    "cache_logits",
    "map_layers",
    "student_from",
]
