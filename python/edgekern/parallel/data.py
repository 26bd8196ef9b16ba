"""Training on several ranks: each goes through its part of every batch, and gradients are averaged by torch's DDP."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from edgekern import train
from edgekern.config import FitConfig
from edgekern.parallel.errors import ParallelError
from edgekern.parallel.group import Group
from edgekern.parallel.norms import SharedNorms
from edgekern.parallel.reduce import sum_over
from edgekern.prune import MaskLock
from edgekern.train import Callback, FitResult, KeepZeros, PruneGradually, Run
from edgekern.train.feed import Batches
from edgekern.train.training import Evaluate, Loss


def fit(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    config: FitConfig,
    group: Group,
    *,
    callbacks: Sequence[Callback] = (),
    evaluate: Evaluate | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    progress: bool = True,
    find_unused_parameters: bool = False,
) -> FitResult:
    """:func:`edgekern.fit` on all ranks of a group: the same weights on all of them, at the start and at the end.

    Every rank goes through the same batches, and computes with its own rows of each, so that a step is that of one rank
    with the whole batch: batch norms go by the rows of all ranks. The loss that is logged is the mean over ranks, and
    so are metrics; a loss that is not finite on one rank stops all. Where weights are pruned, masks and weights are
    those of rank 0, and so are buffers.

    Args:
        model, batches, loss, config, callbacks, evaluate: as for ``edgekern.fit``, the same on all ranks. The rows of a
            batch are the first dimension of all its tensors, and have to be a multiple of the number of ranks.
            ``Distiller`` is a loss as any other.
        group: the ranks.
        checkpoint: a file on rank 0. The others are given what is in it, and write nothing.
        log, progress: of rank 0 alone.
        find_unused_parameters: for models that do not use all parameters in every step; as DistributedDataParallel has
            it.

    Returns:
        What came of it.

    Raises:
        RankMismatchError: ranks begin with different weights or options, or end with different weights or masks.
        RankLostError, RankFailedError: another rank is gone.
        TypeError, TrainError: as ``edgekern.fit``.
    """
    with group.together("checking what to train"):
        group_state = _digest(model)
    group.agree("the weights to begin with", group_state)
    group.agree("the options of the training", repr(config.to_dict()))
    step = _Step(model, loss, group)
    shared = DistributedDataParallel(step, find_unused_parameters=find_unused_parameters) if group.size > 1 else step
    own = _Own(checkpoint, group)
    follow = _Follow(group, callbacks)
    # A shared step may last long, but a rank that stops in the middle of one is noticed by the others.
    result = train.fit(
        model,
        split_batches(batches, group),
        _MeanLoss(shared, loss, group),
        config,
        callbacks=[*callbacks, follow],
        evaluate=None if evaluate is None else _mean_metrics(evaluate, group),
        checkpoint=own.path,
        log=log if group.rank == 0 else None,
        progress=progress and group.rank == 0,
    )
    own.remove()
    for buffer in model.buffers():
        group.broadcast(buffer)
    group.agree("the weights in the end", _digest(model))
    group.agree("masks in the end", follow.masks())
    return result


def split_batches(batches: Batches, group: Group) -> Batches:
    """The same batches, of each of which this rank sees its own rows.

    Raises:
        ParallelError: when a batch comes whose rows are no multiple of the number of ranks.
    """
    if isinstance(batches, Iterable):
        return _Split(batches, group)
    return lambda epoch: _Split(batches(epoch), group)


class _Split:
    """Batches by rows. What else the iterable has, its sampler and its generator, is found here too."""

    def __init__(self, batches: Iterable[Any], group: Group) -> None:
        self._batches, self._group = batches, group

    def __iter__(self) -> Iterator[Any]:
        return (_rows_of(batch, self._group) for batch in self._batches)

    def __len__(self) -> int:
        return len(cast(Any, self._batches))  # TypeError where there is no length, as of any other

    def __getattr__(self, name: str) -> Any:
        if name in ("sampler", "generator", "set_epoch"):
            return getattr(self._batches, name)
        raise AttributeError(name)


def _rows_of(batch: Any, group: Group) -> Any:
    leaves, spec = tree_flatten(batch)
    counts = {len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim}
    if len(counts) != 1 or (count := counts.pop()) % group.size:
        sizes = [list(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]
        raise ParallelError(
            f"batches: the first dimension of all tensors must be one multiple of the {group.size} ranks, got {sizes}; "
            "drop_last=True of a DataLoader leaves out a shorter last batch"
        )
    each = count // group.size
    own = slice(group.rank * each, (group.rank + 1) * each)
    cut = [leaf[own] if isinstance(leaf, Tensor) and leaf.ndim else leaf for leaf in leaves]
    return tree_unflatten(cut, spec)


class _Step(nn.Module):
    """Model and loss as one module, so that DDP sees the parameters of both, and the loss a model with plain names."""

    def __init__(self, model: nn.Module, loss: Loss, group: Group) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self._group = group

    def forward(self, batch: Any) -> Tensor | Mapping[str, Tensor]:
        with SharedNorms(self._group) if self._group.size > 1 else nullcontext():
            return self.loss(self.model, batch)


class _MeanLoss(nn.Module):
    """The loss of a shared step: as a number the mean over ranks, and with the gradient of this rank's part."""

    def __init__(self, step: nn.Module, loss: Loss, group: Group) -> None:
        super().__init__()
        self.loss = loss if isinstance(loss, nn.Module) else None  # its parameters are trained and saved
        self._step, self._group = (step,), group  # in a tuple: the model's parameters are not the loss's

    def forward(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        with self._group.talking("training a step"):
            given = self._step[0](batch)
        parts = dict(given) if isinstance(given, Mapping) else {"loss": given}
        values = torch.stack([part.detach().float().reshape(()) for part in parts.values()])
        means = sum_over(self._group, values) / self._group.size
        return {
            name: part + (mean - part.detach()).to(part.dtype)
            for (name, part), mean in zip(parts.items(), means, strict=True)
        }


class _Follow(Callback):
    """Keeps pruned weights and masks those of rank 0, wherever a callback has pruned; the last of all callbacks."""

    def __init__(self, group: Group, callbacks: Sequence[Callback]) -> None:
        self._group = group
        self._pruning = [each for each in callbacks if isinstance(each, PruneGradually)]
        self._keeping = [each for each in callbacks if isinstance(each, KeepZeros)]
        self._reports: list[object] = []

    def start(self, run: Run) -> None:
        self._group.agree("masks", self.masks())

    def after_step(self, run: Run) -> None:
        reports: list[object] = [each.report for each in self._pruning]
        if any(new is not old for new, old in zip(reports, self._reports or [None] * len(reports), strict=True)):
            for tensor in (*run.model.parameters(), *run.model.buffers()):
                self._group.broadcast(tensor.detach())
            for lock in self._locks():
                state = {name: mask.to(torch.uint8) for name, mask in lock.state_dict().items()}
                lock.load_state_dict({name: self._group.broadcast(mask).bool() for name, mask in state.items()})
        self._reports = reports

    def masks(self) -> str:
        """What tells masks apart."""
        tensors = {f"{i}.{name}": mask for i, lock in enumerate(self._locks()) for name, mask in lock.masks.items()}
        return _digest_of(tensors)

    def _locks(self) -> list[MaskLock]:
        pruners = [each.pruner for each in self._pruning]
        locks = [pruner.lock for pruner in pruners if pruner is not None]
        return [*locks, *(each.lock for each in self._keeping if each.lock is not None)]


class _Own:
    """Where a rank keeps its checkpoint: rank 0 where it was told to, the others a copy that is thrown away."""

    def __init__(self, checkpoint: str | os.PathLike[str] | None, group: Group) -> None:
        self.path: Path | None = None
        self._rank = group.rank
        if checkpoint is None:
            return
        path = Path(checkpoint)
        self.path = path if group.rank == 0 else path.with_name(f"{path.name}.rank{group.rank}")
        with group.together("preparing the checkpoint"):
            self.path.parent.mkdir(parents=True, exist_ok=True) if group.rank else None
            data = path.read_bytes() if group.rank == 0 and path.exists() else b""
        size = group.broadcast(torch.tensor([len(data)]))
        found = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)
        found = found if group.rank == 0 else torch.zeros(max(1, int(size)), dtype=torch.uint8)
        group.broadcast(found)
        if group.rank:
            if int(size):
                self.path.write_bytes(found.numpy().tobytes())
            else:
                self.path.unlink(missing_ok=True)

    def remove(self) -> None:
        """The copy is of no more use."""
        if self._rank and self.path is not None:
            self.path.unlink(missing_ok=True)


def _mean_metrics(evaluate: Evaluate, group: Group) -> Callable[[nn.Module], dict[str, float]]:
    def mean(model: nn.Module) -> dict[str, float]:
        given = evaluate(model)
        found = dict(given) if isinstance(given, Mapping) else {"value": given}
        total = sum_over(group, torch.tensor([float(value) for value in found.values()]))
        return {name: float(value) / group.size for name, value in zip(found, total, strict=True)}

    return mean


def _digest(model: nn.Module) -> str:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    return _digest_of(model.state_dict())


def _digest_of(tensors: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        for leaf in tree_leaves(tensors[name]):
            data = leaf.detach().cpu().contiguous().view(-1).view(torch.uint8) if isinstance(leaf, Tensor) else leaf
            digest.update(data.numpy().tobytes() if isinstance(data, Tensor) else repr(data).encode())
    return digest.hexdigest()
