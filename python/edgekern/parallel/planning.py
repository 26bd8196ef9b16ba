"""Which rank runs which part of a model: by the time each part takes there, and the memory that there is."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from edgekern.calibration.observe import inference
from edgekern.config import Config
from edgekern.parallel.chain import Chain, cut
from edgekern.parallel.checkpoints import check_scheme, load_own
from edgekern.parallel.errors import ParallelError
from edgekern.parallel.group import Group
from edgekern.parallel.memory import free_memory
from edgekern.table import Table


@dataclass(frozen=True)
class Rank:
    """What is known of a rank beforehand.

    Attributes:
        speed: how fast it is, as a multiple of this machine.
        memory: bytes that it may take for its part; None for as many as it likes.
    """

    speed: float = 1.0
    memory: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.speed < math.inf:
            raise ValueError(f"Rank: speed must be above 0 and finite, got {self.speed!r}")
        if self.memory is not None and self.memory < 1:
            raise ValueError(f"Rank: memory must be 1 byte or more, or None; got {self.memory!r}")


@dataclass(frozen=True)
class Cost:
    """What a unit takes on one rank."""

    seconds: float
    """For the data that was measured with."""
    nbytes: int
    cache: float
    """Bytes of keys and values for a token."""
    reading: int = 0
    """Bytes of its largest layer as floats, where it is converted when it is read; they come on top for a moment."""


@dataclass(frozen=True)
class StagePlan:
    """The part of one rank."""

    first: int
    last: int
    """Its units are those from ``first`` on, before ``last``."""
    seconds: float
    nbytes: int
    """With the cache that was asked for."""


@dataclass(frozen=True)
class Plan(Table[StagePlan]):
    """Stages in the order of ranks; prints as a table."""

    _HEADER: ClassVar[tuple[str, ...]] = ("rank", "from", "to", "ms", "MB")

    units: tuple[str, ...]
    """Names of all units."""

    @property
    def stages(self) -> tuple[StagePlan, ...]:
        """One a rank; the rows of the table."""
        return self.rows

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data, for boards that are told what to do."""
        return {"units": list(self.units), "stages": [dataclasses.asdict(stage) for stage in self.stages]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse.

        Raises:
            ValueError: no such data, or stages that leave out units.
        """
        try:
            plan = cls(tuple(StagePlan(**stage) for stage in data["stages"]), tuple(data["units"]))
            ends = [(stage.first, stage.last) for stage in plan.stages]
        except (KeyError, TypeError) as error:
            raise ValueError(f"data: expected what Plan.to_dict makes; {error}") from None
        starts = [0, *(last for _, last in ends)]
        if [first for first, _ in ends] != starts[:-1] or starts[-1] != len(plan.units) or not ends:
            raise ValueError(f"data: stages must go over all {len(plan.units)} units without gaps, got {ends}")
        return plan

    def _cells(self) -> list[list[str]]:
        return [
            [
                str(rank),
                self.units[stage.first],
                self.units[stage.last - 1],
                f"{1e3 * stage.seconds:.1f}",
                f"{stage.nbytes / 1e6:.1f}",
            ]
            for rank, stage in enumerate(self.stages)
        ]

    def _totals(self) -> str:
        slowest = max(range(len(self.stages)), key=lambda rank: self.stages[rank].seconds)
        return f"{len(self.units)} units; rank {slowest} is the slowest"


def plan(
    model: nn.Module,
    world: int | Sequence[Rank] | Group,
    data: Any,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    scheme: Config | None = None,
    cache_tokens: int = 0,
    repeats: int = 3,
) -> Plan:
    """Divides a model among ranks such that the slowest stage is as fast as can be, and each fits into its memory.

    Units are run one after the other with ``data``, each alone, and timed. With a ``Group`` every rank does so and says
    what it needed and how much memory it has: boards may differ.

    Args:
        model: ``nn.Sequential``, or a causal language model of the Llama family; on the meta device with
            ``checkpoint``.
        world: the number of ranks, all like this machine; or what is known of each; or the group, which is asked.
        data: one batch: what the model is called with, for a language model token ids int64 [B, T].
        checkpoint: a folder that ``edgekern.save`` wrote, or a Hugging Face folder: units are read from it one at a
            time, so that the model need not fit into this machine's memory.
        scheme: what layers of a Hugging Face folder will be converted to.
        cache_tokens: of a language model: all tokens whose keys and values are kept at a time, those of every row of a
            batch; they count as memory of the stages.
        repeats: of each measurement; the median counts.

    Returns:
        The plan; the same one on all ranks.

    Raises:
        TypeError: an argument of another type.
        ValueError: a model that cannot be divided, or an argument out of range.
        ParallelError: fewer units than ranks, or less memory than the model takes.
        CheckpointError: as ``load`` raises it.
    """
    chain = cut(model)
    if cache_tokens < 0 or repeats < 1:
        raise ValueError(f"cache_tokens >= 0 and repeats >= 1 are expected, got {cache_tokens} and {repeats}")
    if isinstance(world, Group):
        with world.together("measuring the model"):
            costs = measure(model, data, checkpoint=checkpoint, scheme=scheme, repeats=repeats)
        said = [json.loads(text) for text in world.gather(_said(costs))]
        table = [[Cost(*cost) for cost in each["costs"]] for each in said]
        return divide(chain, table, [each["memory"] for each in said], cache_tokens)
    ranks = _ranks(world)
    costs = measure(model, data, checkpoint=checkpoint, scheme=scheme, repeats=repeats)
    table = [[dataclasses.replace(cost, seconds=cost.seconds / rank.speed) for cost in costs] for rank in ranks]
    return divide(chain, table, [rank.memory for rank in ranks], cache_tokens)


def measure(
    model: nn.Module,
    data: Any,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    scheme: Config | None = None,
    repeats: int = 3,
) -> list[Cost]:
    """What each unit takes on this machine; arguments and errors as for :func:`plan`."""
    check_scheme(checkpoint, scheme)
    whole, costs = cut(model), []
    x = _first_input(data)
    rows = math.prod(x.shape[:2]) if x.ndim > 1 else len(x)
    for number in range(len(whole.units)):
        chain = whole
        if checkpoint is not None:
            chain = cut(copy.deepcopy(model))  # on the meta device: its unit is let go with it
            load_own(chain.model, checkpoint, partial(chain.keeps, number, number + 1), scheme, verify=number == 0)
        stage, times = chain.stage(number, number + 1), []
        if any(tensor.is_meta for tensor in (*stage.parameters(), *stage.buffers())):
            raise ValueError("model: it is on the meta device and has no values; give checkpoint= to measure with")
        with inference(stage):
            for _ in range(repeats + 1):  # the first warms up
                start = time.perf_counter()
                y, cache = stage.run(x, logits=1)
                times.append(time.perf_counter() - start)
        held = _cache_bytes(cache)
        reading = 0 if scheme is None else whole.largest(number, number + 1)
        costs.append(Cost(median(times[1:]), chain.nbytes(number, number + 1), held / rows, reading))
        x = y
    return costs


def divide(chain: Chain, costs: Sequence[Sequence[Cost]], memory: Sequence[int | None], cache_tokens: int) -> Plan:
    """The plan with the shortest longest stage.

    Args:
        chain: what is divided.
        costs: of each rank, what each unit takes there.
        memory: of each rank, in bytes; None for no limit.
        cache_tokens: as for :func:`plan`.

    Raises:
        ParallelError: there is none.
    """
    ranks, units = len(costs), len(chain.units)
    if units < ranks:
        raise ParallelError(f"the model has {units} units, fewer than the {ranks} ranks; start fewer")
    # best[u]: the longest stage when the ranks so far take the first u units, and where the last of them begins.
    best: list[list[tuple[float, int]]] = [[(0.0, 0)] + [(math.inf, 0)] * units]
    for rank in range(ranks):
        row = [(math.inf, 0)] * (units + 1)
        for end in range(rank + 1, units - (ranks - rank - 1) + 1):
            seconds, needed, largest = 0.0, 0.0, 0
            for begin in range(end - 1, rank - 1, -1):
                cost = costs[rank][begin]
                seconds += cost.seconds
                needed += cost.nbytes + cost.cache * cache_tokens
                largest = max(largest, cost.nbytes, cost.reading)
                limit = memory[rank]
                if limit is not None and needed + largest > limit:  # what is being read comes on top
                    break
                longest = max(best[-1][begin][0], seconds)
                if longest < row[end][0]:
                    row[end] = (longest, begin)
        best.append(row)
    if math.isinf(best[-1][units][0]):
        raise ParallelError(_too_large(costs, memory, cache_tokens))
    ends = [units]
    for row in reversed(best[1:]):
        ends.append(row[ends[-1]][1])
    ends.reverse()
    stages = []
    for rank, (first, last) in enumerate(pairwise(ends)):
        own = costs[rank][first:last]
        nbytes = sum(cost.nbytes for cost in own) + round(sum(cost.cache for cost in own) * cache_tokens)
        stages.append(StagePlan(first, last, sum(cost.seconds for cost in own), nbytes))
    return Plan(tuple(stages), tuple(unit.name for unit in chain.units))


def _too_large(costs: Sequence[Sequence[Cost]], memory: Sequence[int | None], cache_tokens: int) -> str:
    weights, cache = sum(cost.nbytes for cost in costs[0]), sum(cost.cache for cost in costs[0]) * cache_tokens
    largest = max(max(cost.nbytes, cost.reading) for cost in costs[0])
    there = ", ".join("no limit" if limit is None else f"{limit / 1e6:.1f} MB" for limit in memory)
    return (
        f"the model does not fit: {weights / 1e6:.1f} MB of weights and {cache / 1e6:.1f} MB of cache, and on each "
        f"rank once more its largest unit, up to {largest / 1e6:.1f} MB, while it loads; the ranks have {there}; add a "
        "rank, or convert to fewer bits"
    )


def _said(costs: Sequence[Cost]) -> str:
    return json.dumps({"costs": [dataclasses.astuple(cost) for cost in costs], "memory": free_memory()})


def _ranks(world: int | Sequence[Rank]) -> list[Rank]:
    if isinstance(world, bool) or not isinstance(world, int | Sequence):
        raise TypeError(f"world: expected a number of ranks, a list of Rank, or a Group; got {type(world).__name__}")
    ranks = [Rank()] * world if isinstance(world, int) else list(world)
    if not ranks or not all(isinstance(rank, Rank) for rank in ranks):
        raise ValueError(f"world: expected at least one rank, each a Rank; got {world!r}")
    return ranks


def _first_input(data: Any) -> Tensor:
    if isinstance(data, Mapping):
        data = data.get("input_ids", next(iter(data.values()), None))
    elif isinstance(data, Sequence) and data:
        data = data[0]
    if not isinstance(data, Tensor) or not data.numel():
        raise TypeError(f"data: expected one batch, a tensor; got {type(data).__name__}")
    return data


def _cache_bytes(cache: Any) -> int:
    """Of keys and values."""
    layers = [] if cache is None else cast(list[Any], cache.layers)
    tensors = tree_leaves([[layer.keys, layer.values] for layer in layers if getattr(layer, "keys", None) is not None])
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))
