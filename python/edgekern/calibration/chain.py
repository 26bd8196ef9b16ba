"""Chains of blocks in a model, such as the decoder layers of a language model: each is given what the last one made.

A chain can be run block by block from kept inputs, without the rest of the model. Whether a container of modules is
one is not read off its type but seen when the model runs, and tried: run by itself, it has to give the same bits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from edgekern.calibration.observe import Arguments, Enough, arguments, inference, tensors_in


@dataclass(frozen=True, eq=False)
class Chain:
    """Modules that are called one after the other, each once."""

    items: tuple[nn.Module, ...]
    flow: tuple[int, ...]
    """Which of an item's arguments, flattened, the item before has made. The others are the same for all items."""

    def inputs(self, model: nn.Module, batches: Iterable[object], room: int) -> list[Arguments] | None:
        """What the model calls the first item with, for each batch that reaches it; None for more than ``room`` bytes.

        The model is stopped there, and what it gave is copied, so that nobody changes it.
        """
        found: list[Arguments] = []

        def take(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(copy.deepcopy((args, kwargs)))
            raise Enough

        handle = self.items[0].register_forward_pre_hook(take, with_kwargs=True)
        try:
            with inference(model):
                for args, kwargs in map(arguments, batches):
                    with suppress(Enough):
                        model(*args, **kwargs)
                    if sum(map(nbytes, found)) > room:
                        return None
        finally:
            handle.remove()
        return found

    def next_inputs(self, at: int, given: Arguments) -> Arguments:
        """What item ``at + 1`` is called with when item ``at`` is called with ``given``."""
        args, kwargs = copy.deepcopy(given)  # the item may write into them, or into a cache among them
        with inference(self.items[at]):
            result = _flowing(self.items[at](*args, **kwargs))
        leaves, spec = tree_flatten(given)
        for i in self.flow:
            leaves[i] = result
        return tree_unflatten(leaves, spec)


def nbytes(given: Arguments) -> int:
    """Bytes of the tensors among arguments."""
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors_in(given))


class Trial:
    """The modules of a container, watched while the model runs: are they a chain?"""

    def __init__(self, items: Sequence[nn.Module]) -> None:
        self.items = tuple(items)
        self._sound = True
        self._flow: tuple[int, ...] | None = None
        self._called = 0
        self._first: tuple[list[Any], TreeSpec] | None = None
        self._result: Tensor | None = None  # held, so that no other tensor gets its identity
        self._sample: Arguments | None = None
        """What the first item was called with when it first was; None also when that cannot be copied."""
        self._outcome: Tensor | None = None
        """What the last item made of it."""

    def enter(self, item: nn.Module, given: Arguments) -> None:
        """An item is about to be called."""
        leaves, spec = tree_flatten(given)
        self._sound &= self._called < len(self.items) and self.items[self._called] is item
        if self._called == 0:
            self._first = (leaves, spec)
            if self._outcome is None:
                self._sample = _copied(given)
        elif self._sound:
            assert self._first is not None
            flow = tuple(i for i, leaf in enumerate(leaves) if leaf is self._result and isinstance(leaf, Tensor))
            self._flow = flow if self._flow is None else self._flow
            self._sound = spec == self._first[1] and bool(flow) and flow == self._flow
            others = [i for i in range(len(leaves)) if i not in flow]
            self._sound = self._sound and all(_alike(leaves[i], self._first[0][i]) for i in others)

    def leave(self, output: object) -> None:
        """The item has been called."""
        self._result = _flowing(output)
        self._called += 1
        if self._called == len(self.items) and self._outcome is None and self._result is not None:
            self._outcome = self._result.clone()

    def end(self) -> None:
        """The model has returned."""
        self._sound &= self._called in (0, len(self.items))
        self._called = 0
        self._first = self._result = None

    def chain(self) -> Chain | None:
        """The chain that it is, if so. Runs the items."""
        if not self._sound or self._flow is None or self._sample is None or self._outcome is None:
            return None
        chain, given = Chain(self.items, self._flow), self._sample
        try:
            for at in range(len(self.items)):
                given = chain.next_inputs(at, given)
        except Exception:  # the items need something that the model sets up around them
            return None
        result = tree_leaves(given)[self._flow[0]]
        # Not so for items that change what all share, or that the model calls under a mode of its own, as autocast.
        same = isinstance(result, Tensor) and result.dtype == self._outcome.dtype
        return chain if same and torch.equal(result, self._outcome) else None


def trials_in(model: nn.Module, layers: Iterable[nn.Module]) -> list[Trial]:
    """One for each ModuleList and Sequential that holds one of the layers somewhere, the outer before the inner."""
    wanted, taken = set(layers), set[nn.Module]()
    found = []
    for container in model.modules():
        if not isinstance(container, nn.ModuleList | nn.Sequential) or len(container) < 2:
            continue
        items = list(container)
        if taken.isdisjoint(items) and len(set(items)) == len(items) and not wanted.isdisjoint(container.modules()):
            taken.update(items)
            found.append(Trial(items))
    return found


@contextmanager
def watching(trials: Iterable[Trial]) -> Iterator[list[nn.Module]]:
    """Inside, the trials see the calls of their items. Gives the items that are running, from the outermost in."""
    running: list[nn.Module] = []
    with ExitStack() as stack:
        for trial in trials:

            def enter(item: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, trial: Trial = trial) -> None:
                trial.enter(item, (args, kwargs))
                running.append(item)

            def leave(item: nn.Module, _: object, output: object, *, trial: Trial = trial) -> None:
                trial.leave(output)
                running.remove(item)

            for item in trial.items:
                stack.callback(item.register_forward_pre_hook(enter, with_kwargs=True).remove)
                stack.callback(item.register_forward_hook(leave).remove)
        yield running


def _flowing(output: object) -> Tensor | None:
    """What of an item's result goes on to the next: all, or the first of several; None when that is no tensor."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first if isinstance(first, Tensor) else None


def _alike(left: object, right: object) -> bool:
    plain = isinstance(left, bool | int | float | str) and type(left) is type(right)
    return left is right or (plain and left == right)


def _copied(given: Arguments) -> Arguments | None:
    if any(isinstance(leaf, nn.Module) for leaf in tree_leaves(given)):
        return None  # a copy of it would not see its layers changed
    try:
        return copy.deepcopy(given)
    except (TypeError, RuntimeError, NotImplementedError):  # handles, generators, some kinds of tensor
        return None
