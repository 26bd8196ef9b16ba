"""Training: one small loop that goes on exactly where it was killed, and what plugs into it."""

from __future__ import annotations

from edgekern.config import EarlyStop, FitConfig
from edgekern.train.callbacks import Callback, KeepZeros, PrepareQAT, PruneGradually
from edgekern.train.errors import TrainError
from edgekern.train.loop import fit
from edgekern.train.run import FitResult, Run

__all__ = [
    "Callback",
    "EarlyStop",
    "FitConfig",
    "FitResult",
    "KeepZeros",
    "PrepareQAT",
    "PruneGradually",
    "Run",
    "TrainError",
    "fit",
]
