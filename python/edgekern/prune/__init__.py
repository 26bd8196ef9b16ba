"""Pruning: weights of a float model that go to zero, and stay there."""

from __future__ import annotations

from edgekern.config import AGP
from edgekern.prune.apply import prune_
from edgekern.prune.lock import MaskLock
from edgekern.prune.report import PruneReport, PruneRow
from edgekern.prune.schedule import GradualPruner, prune_iteratively_
from edgekern.prune.task import PruneError

__all__ = [
    "AGP",
    "GradualPruner",
    "MaskLock",
    "PruneError",
    "PruneReport",
    "PruneRow",
    "prune_",
    "prune_iteratively_",
]
