"""Models divided by layers: each rank runs a stage, on one micro-batch while the next rank runs the one before."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.config import Config
from edgekern.fuse import fuse_blocks_
from edgekern.parallel.chain import Chain, Stage, check_batch, cut
from edgekern.parallel.checkpoints import check_scheme, checksum_of, load_own
from edgekern.parallel.errors import RankMismatchError
from edgekern.parallel.group import Group
from edgekern.parallel.planning import Plan
from edgekern.parallel.transfer import SHAPES, VALUES, Outbox, receive, receive_all

MICRO_BATCHES = 4
"""For each rank, where nothing is said: while the first ones come through, ranks wait, and the more the shorter."""
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
_MOST_DIMENSIONS = 8


class Divided:
    """One rank's stage of a model, and its neighbours.

    Args:
        model: the whole model, the same on all ranks; on the meta device with ``checkpoint``.
        plan: what :func:`plan` has made for as many ranks.
        group: the ranks.
        checkpoint: a folder that ``edgekern.save`` wrote, or a Hugging Face folder. The rank reads its own layers from
            it, layer by layer.
        scheme: what to convert layers of a Hugging Face folder to, as ``convert_`` would, each as soon as it is read.

    Raises:
        RankMismatchError: the plan is for another number of ranks or another model, or ranks have other plans,
            checkpoints or schemes: on all ranks.
        TypeError, ValueError: a scheme that is none, or no Hugging Face folder to convert by it.
        RankFailedError: another rank cannot load its part; that one raises what load raises.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        group: Group,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        scheme: Config | None = None,
    ) -> None:
        with group.together("dividing the model"):
            check_scheme(checkpoint, scheme)
            chain = cut(model)
            _check_plan(plan, chain, group)
        group.agree("the plan", "; ".join(f"{stage.first} to {stage.last}" for stage in plan.stages))
        own = plan.stages[group.rank]
        if checkpoint is not None:
            group.agree("the scheme", repr(scheme))
            with group.together("loading its part of the model"):
                load_own(model, checkpoint, partial(chain.keeps, own.first, own.last), scheme)
                checksum = checksum_of(checkpoint)
            group.agree("the checkpoint", checksum)
        with group.together("making its stage"):
            self.stage: Stage = chain.stage(own.first, own.last)
            if any(tensor.is_meta for tensor in (*self.stage.parameters(), *self.stage.buffers())):
                raise ValueError("model: it is on the meta device and has no values; give checkpoint=")
            fuse_blocks_(self.stage)
        self.plan, self.group, self.chain = plan, group, chain
        self.is_first, self.is_last = group.rank == 0, group.rank == group.size - 1


class Pipeline(Divided):
    """An ``nn.Sequential`` that several ranks run; see :class:`Divided` for arguments.

    All ranks call it, and all the same number of times.
    """

    @torch.inference_mode()
    def __call__(self, x: Tensor | None = None, *, micro_batches: int | None = None) -> Tensor | None:
        """What the model makes of ``x``.

        Args:
            x: a batch [B, ...] on rank 0; elsewhere it is not looked at.
            micro_batches: parts that the batch is divided into, on rank 0; 4 for each rank where nothing is said, or
                as many as it has rows.

        Returns:
            The result on the last rank, None on the others.

        Raises:
            TypeError, ValueError: no such batch; the other ranks then raise RankFailedError, if rank 0 ends.
            RankLostError, RankFailedError: another rank is gone.
        """
        group = self.group
        parts: tuple[Tensor, ...] = ()
        count = torch.zeros(1, dtype=torch.int64)
        if self.is_first:
            parts = divided_rows(check_batch(x, "x", None), micro_batches or MICRO_BATCHES * group.size)
            count[0] = len(parts)
        group.broadcast(count)
        rows = torch.tensor([len(part) for part in parts]) if parts else torch.zeros(int(count), dtype=torch.int64)
        group.broadcast(rows)
        source = iter(parts) if self.is_first else self._receive(rows.tolist())
        outbox, results = Outbox(group, group.rank + 1, VALUES), []
        for number, part in enumerate(source):
            y, _ = self.stage.run(part)
            if self.is_last:
                results.append(y)
                continue
            if number == 0:
                self._announce(y)
            outbox.send(y)
        outbox.flush()
        return torch.cat(results) if self.is_last else None

    def _announce(self, y: Tensor) -> None:
        """Tells the next rank the dtype and the sizes, but for the rows, of all that will come."""
        if y.ndim > _MOST_DIMENSIONS or y.dtype not in _DTYPES:
            raise ValueError(f"model: a stage gives {y.dtype} {list(y.shape)}, which cannot be sent on")
        text = torch.zeros(_MOST_DIMENSIONS + 1, dtype=torch.int64)
        sizes = torch.tensor([_DTYPES.index(y.dtype), y.ndim, *y.shape[1:]])
        text[: len(sizes)] = sizes
        outbox = Outbox(self.group, self.group.rank + 1, SHAPES)
        outbox.send(text)
        outbox.flush()

    def _receive(self, rows: list[int]) -> Any:
        source = self.group.rank - 1
        kind, ndim, *sizes = receive(self.group, source, SHAPES, ((_MOST_DIMENSIONS + 1,), torch.int64)).tolist()
        return receive_all(self.group, source, VALUES, [((n, *sizes[: ndim - 1]), _DTYPES[kind]) for n in rows])


def divided_rows(x: Tensor, parts: int) -> tuple[Tensor, ...]:
    """``x`` by rows, in at most so many parts of about equal size.

    Raises:
        ValueError: fewer than one part.
    """
    if parts < 1:
        raise ValueError(f"micro_batches: expected 1 or more, got {parts}")
    return tuple(torch.tensor_split(x, min(parts, len(x))))


def _check_plan(plan: Plan, chain: Chain, group: Group) -> None:
    if not isinstance(plan, Plan):
        raise TypeError(f"plan: expected what edgekern.parallel.plan makes, got {type(plan).__name__}")
    if len(plan.stages) != group.size:
        raise RankMismatchError(
            f"the plan is for {len(plan.stages)} ranks, and {group.size} were started; start as many, or plan anew"
        )
    if plan.units != tuple(unit.name for unit in chain.units):
        raise RankMismatchError(
            f"the plan is for another model: it has {len(plan.units)} units from {plan.units[0]!r} to "
            f"{plan.units[-1]!r}, the model {len(chain.units)} from {chain.units[0].name!r} to {chain.units[-1].name!r}"
        )
