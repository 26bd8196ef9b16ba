"""How much each layer minds being changed, and what to make of each therefore."""

from __future__ import annotations

from edgekern.sensitivity.allocation import allocate
from edgekern.sensitivity.budget import parse_budget
from edgekern.sensitivity.result import Sensitivity, SensitivityRow
from edgekern.sensitivity.scan import sensitivity

__all__ = ["Sensitivity", "SensitivityRow", "allocate", "parse_budget", "sensitivity"]
