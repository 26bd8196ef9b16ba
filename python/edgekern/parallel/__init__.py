"""One model on several processes, cores or boards: by layers, within layers, or by data.

Processes are started by ``torchrun``, talk by torch.distributed over gloo, and watch each other.
"""

from __future__ import annotations

from edgekern.parallel.affinity import Core, choose_cores, cores, pin
from edgekern.parallel.data import fit, split_batches
from edgekern.parallel.errors import (
    ParallelError,
    RankFailedError,
    RankLostError,
    RankMismatchError,
    StartError,
)
from edgekern.parallel.group import Group, join
from edgekern.parallel.pipeline import Pipeline
from edgekern.parallel.planning import Plan, Rank, StagePlan, measure, plan
from edgekern.parallel.tensor import generate, tensor_parallel_
from edgekern.parallel.writing import CausalPipeline

__all__ = [
    "CausalPipeline",
    "Core",
    "Group",
    "ParallelError",
    "Pipeline",
    "Plan",
    "Rank",
    "RankFailedError",
    "RankLostError",
    "RankMismatchError",
    "StagePlan",
    "StartError",
    "choose_cores",
    "cores",
    "fit",
    "generate",
    "join",
    "measure",
    "pin",
    "plan",
    "split_batches",
    "tensor_parallel_",
]
