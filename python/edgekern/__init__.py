"""edgekern: PyTorch models made smaller and faster on ordinary CPUs, with native int8, int4 and sparse kernels.

``edgekern.kernels`` and ``EnergyMeter`` need NumPy alone. Everything else needs torch, and says so when it is missing.
"""

from __future__ import annotations

from importlib import metadata as _metadata
from typing import TYPE_CHECKING, Any

from edgekern import kernels
from edgekern._lib import core as _core
from edgekern._lib import has_torch as _has_torch
from edgekern.config import (
    AWQ,
    GPTQ,
    EarlyStop,
    FitConfig,
    Float16,
    Float32,
    Int4,
    Int8,
    PerLayer,
    Prune,
    Recipe,
    Shrink,
    SmoothQuant,
    config_from_dict,
)
from edgekern.energy import EnergyMeter, EnergyResult

__all__ = [
    "AGP",
    "AWQ",
    "GPTQ",
    "BenchResult",
    "BlockReport",
    "CheckpointError",
    "CompressData",
    "CompressError",
    "Compressed",
    "ConvertError",
    "DistillError",
    "Distiller",
    "EarlyStop",
    "EnergyMeter",
    "EnergyResult",
    "FitConfig",
    "Float16",
    "Float32",
    "FreezeReport",
    "FuseError",
    "FuseReport",
    "GradualPruner",
    "Int4",
    "Int8",
    "LinkReport",
    "MaskLock",
    "PerLayer",
    "PowerPlan",
    "Prune",
    "PruneError",
    "PruneReport",
    "QATError",
    "QATReport",
    "QuantizeError",
    "QuantizeReport",
    "Recipe",
    "Report",
    "Sensitivity",
    "Shrink",
    "ShrinkReport",
    "SmoothQuant",
    "TrainError",
    "allocate",
    "bench",
    "compress",
    "config_from_dict",
    "convert_",
    "dense_",
    "distill",
    "explain",
    "fit",
    "freeze",
    "fuse_",
    "fuse_blocks_",
    "kernels",
    "link_",
    "load",
    "nn",
    "ops",
    "power_plan",
    "prepare_qat_",
    "prune_",
    "prune_iteratively_",
    "quantize_",
    "save",
    "sensitivity",
    "shrink_",
    "shrink_like_",
    "student_from",
    "train",
    "undo_qat_",
]

try:
    __version__ = _metadata.version("edgekern")
except _metadata.PackageNotFoundError:  # run from a source tree
    __version__ = _core.version


def _why_no_torch() -> str:
    """Why the torch half cannot be used; empty when it can."""
    if not _has_torch:
        return "torch is not installed"
    import torch

    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return "" if (major, minor) >= (2, 9) else f"torch {torch.__version__} is too old"


_no_torch = _why_no_torch()

if TYPE_CHECKING or not _no_torch:
    from edgekern import distill, nn, ops, train
    from edgekern.bench import BenchResult, bench
    from edgekern.checkpoint import CheckpointError, load, save
    from edgekern.compress import CompressData, Compressed, CompressError, compress
    from edgekern.convert import convert_, dense_, explain
    from edgekern.distill import Distiller, DistillError, student_from
    from edgekern.energy.plan import power_plan
    from edgekern.energy.points import PowerPlan
    from edgekern.fuse import (
        BlockReport,
        FreezeReport,
        FuseError,
        FuseReport,
        LinkReport,
        freeze,
        fuse_,
        fuse_blocks_,
        link_,
    )
    from edgekern.plan import ConvertError
    from edgekern.prune import AGP, GradualPruner, MaskLock, PruneError, PruneReport, prune_, prune_iteratively_
    from edgekern.prune.structured import ShrinkReport, shrink_, shrink_like_
    from edgekern.qat import QATError, QATReport, prepare_qat_, undo_qat_
    from edgekern.quantize import QuantizeError, QuantizeReport, quantize_
    from edgekern.sensitivity import Sensitivity, allocate, sensitivity
    from edgekern.summary import Report
    from edgekern.train import TrainError, fit
else:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            raise ImportError(f"edgekern.{name} needs torch >= 2.9, but {_no_torch}; run: pip install 'torch>=2.9'")
        raise AttributeError(f"module 'edgekern' has no attribute {name!r}")
