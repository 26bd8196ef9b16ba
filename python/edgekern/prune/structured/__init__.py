"""Structured pruning: channels and heads taken out, so that layers really shrink."""

from __future__ import annotations

from edgekern.prune.structured.report import ShrinkReport, ShrinkRow
from edgekern.prune.structured.shrink import shrink_, shrink_like_

__all__ = ["ShrinkReport", "ShrinkRow", "shrink_", "shrink_like_"]
