"""Pruning: weights of a float model that go to zero, and stay there."""

from __future__ import annotations

from edgekern.prune.apply import prune_
from edgekern.prune.report import PruneReport, PruneRow
from edgekern.prune.task import PruneError

__all__ = ["PruneError", "PruneReport", "PruneRow", "prune_"]
