"""How much each layer minds being pruned, and how much of each to prune therefore."""

from __future__ import annotations

from edgekern.sensitivity.budget import allocate
from edgekern.sensitivity.result import Sensitivity, SensitivityRow
from edgekern.sensitivity.scan import sensitivity

__all__ = ["Sensitivity", "SensitivityRow", "allocate", "sensitivity"]
