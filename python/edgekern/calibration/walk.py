"""Showing each layer in turn its inputs, as they come through the layers changed before it, without starting over.

A whole pass over the data for each layer would make the work grow with the square of the depth. Two things save it:

- The model is stopped once the layers at hand were reached; the rest of it cannot matter to them.
- Of layers in a chain of blocks, as the decoder layers of a language model, the inputs of the block at hand are kept.
  Its layers are shown them by running that block alone, and the next block's are what it then makes of them.

Both show the layers the very bits of a whole pass. Where a model is not found to be made so, whole passes it is.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from edgekern.calibration.chain import Chain, nbytes, trials_in, watching
from edgekern.calibration.errors import DataError
from edgekern.calibration.observe import Arguments, Observe, arguments, gather, tensors_in, version_of, watch

LEAST_ROOM = 256 << 20  # bytes that kept inputs may take even where the model itself takes less


class Walk:
    """The way through a model that its layers are changed along.

    Args:
        model: what to run.
        layers: those to change.
        batches: the calibration data, which can be iterated again and again.

    Raises:
        DataError: there is no batch.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], batches: Iterable[object]) -> None:
        self._model, self._batches = model, batches
        survey = _Survey(model, layers)
        survey.run(model, batches)
        self.stages = survey.stages
        self._given = survey.given
        self._once = {layer for layer, most in survey.most_calls.items() if most <= 1}
        self._homes = survey.homes()
        weights = [weight for weight in model.parameters() if not nn.parameter.is_lazy(weight)]
        self._room = max(LEAST_ROOM, sum(weight.nbytes for weight in weights))
        self._kept: _Kept | None = None

    def gather(self, observers: Mapping[nn.Module, Observe]) -> None:
        """Hands the inputs of the layers of a stage to their observers; stages have to come in order."""
        once = observers.keys() <= self._once
        home = self._home(observers)
        self._kept = None if home is None else self._inputs_of(*home)
        if self._kept is not None:
            watch(self._kept.item, observers, map(copy.deepcopy, self._kept.inputs), once=once)
        else:
            gather(self._model, observers, self._batches, once=once)

    def sharing(self, layers: Iterable[nn.Module]) -> list[list[nn.Module]]:
        """The layers in lots whose inputs are the same in all of the data: one of a lot speaks for the others.

        Convolutions are on their own, for they see other patches of the same input.
        """
        lots: dict[object, list[nn.Module]] = {}
        for layer in layers:
            given = self._given[layer]
            lots.setdefault(tuple(given) if given and isinstance(layer, nn.Linear) else layer, []).append(layer)
        return list(lots.values())

    def block_of(self, layers: Iterable[nn.Module]) -> nn.Module | None:
        """The item of a chain that the layers are called in, and nowhere else; None when they are in no one item."""
        home = self._home(layers)
        return None if home is None else home[0].items[home[1]]

    def keeps(self, block: nn.Module) -> bool:
        """Whether ``block`` can be run alone: its layers were shown their inputs last, and its own are kept."""
        return self._kept is not None and self._kept.item is block and bool(self._kept.inputs)

    def rerun(self, block: nn.Module) -> list[Tensor]:
        """The tensors that a block which is kept makes of the first of its inputs."""
        assert self._kept is not None
        assert self._kept.item is block
        results: list[Tensor] = []
        given = copy.deepcopy(self._kept.inputs[0])
        watch(block, {}, [given], then=lambda result: results.extend(tensors_in(result)))
        return results

    def restart(self) -> None:
        """Layers that were passed have changed, and with them what comes after: nothing that is kept counts."""
        self._kept = None

    def _home(self, layers: Iterable[nn.Module]) -> tuple[Chain, int] | None:
        homes = [self._homes.get(layer) for layer in layers]
        return homes[0] if all(other == homes[0] for other in homes) else None

    def _inputs_of(self, chain: Chain, at: int) -> _Kept | None:
        """The inputs of an item of a chain; None when they take too much room."""
        kept = self._kept
        if kept is None or kept.chain is not chain or kept.at > at:
            self._kept = None  # makes room first
            inputs = chain.inputs(self._model, self._batches, self._room)
            kept = None if inputs is None else _Kept(chain, 0, inputs)
        while kept is not None and kept.at < at:
            kept = kept if kept.advance(self._room) else None
        if kept is None:  # from here on, as if it were no chain
            self._homes = {layer: home for layer, home in self._homes.items() if home[0] is not chain}
        return kept


@dataclass
class _Kept:
    """What one item of a chain is called with, for each batch that reaches it."""

    chain: Chain
    at: int
    inputs: list[Arguments]

    @property
    def item(self) -> nn.Module:
        """The one whose inputs these are."""
        return self.chain.items[self.at]

    def advance(self, room: int) -> bool:
        """Makes the next item's inputs of this one's, letting go of these one by one; False for more than ``room``."""
        taken = sum(map(nbytes, self.inputs))
        for i, given in enumerate(self.inputs):
            self.inputs[i] = self.chain.next_inputs(self.at, given)
            taken += nbytes(self.inputs[i]) - nbytes(given)
            if taken > room:
                return False
        self.at += 1
        return True


class _Survey:
    """What one pass over the data, before anything is changed, says about the way through the model."""

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        self.stages: list[list[nn.Module]] = []
        """Layers in the order of their first calls; neighbours that are given the same tensor share one. The first
        batch decides, and layers that it does not reach come last, together."""
        self.given: dict[nn.Module, list[int]] = {layer: [] for layer in layers}
        """For each call of a layer, a number: the same for neighbours that are given the same tensor."""
        self.most_calls = dict.fromkeys(layers, 0)
        """How often a batch reaches each layer, at most."""
        self._calls: Counter[nn.Module] = Counter()
        self._waiting = dict.fromkeys(layers)
        self._first_batch = True
        # What the last new layer was given, and the last layer; held, so that no later tensor gets its identity.
        self._previous: tuple[Tensor, int] | None = None
        self._last: tuple[Tensor, int] | None = None
        self._tensors = 0
        self._trials = trials_in(model, layers)
        self._around: dict[nn.Module, set[nn.Module]] = {}
        """The items of containers that ran at every call of a layer."""

    def run(self, model: nn.Module, batches: Iterable[object]) -> None:
        """Looks at all batches; raises DataError when there is none."""
        with watching(self._trials) as running:
            observers = {layer: partial(self._meet, layer, running) for layer in self._waiting}
            if not watch(model, observers, map(arguments, batches), then=self._end_batch):
                raise DataError("data: there is not one batch in it")
        if self._waiting:
            self.stages.append(list(self._waiting))

    def homes(self) -> dict[nn.Module, tuple[Chain, int]]:
        """For each layer that is only called inside one item of a chain: the chain, and which item. Runs the chains."""
        found: dict[nn.Module, tuple[Chain, int]] = {}
        for trial in self._trials:
            places = {item: at for at, item in enumerate(trial.items)}
            inside = {layer: around & places.keys() for layer, around in self._around.items() if layer not in found}
            inside = {layer: items for layer, items in inside.items() if items}
            chain = trial.chain() if inside else None
            if chain is not None:
                found |= {layer: (chain, places[items.pop()]) for layer, items in inside.items()}
        return found

    def _meet(self, layer: nn.Module, running: list[nn.Module], x: Tensor) -> None:
        self._calls[layer] += 1
        self._around[layer] = self._around.get(layer, set(running)) & set(running)
        seen = (x, version_of(x))
        self._tensors += not _same(seen, self._last)
        self._last = seen
        self.given[layer].append(self._tensors)
        if not self._first_batch or layer not in self._waiting:
            return
        del self._waiting[layer]
        if _same(seen, self._previous):
            self.stages[-1].append(layer)
        else:
            self.stages.append([layer])
        self._previous = seen

    def _end_batch(self, _: object) -> None:
        self.most_calls |= {layer: max(count, self.most_calls[layer]) for layer, count in self._calls.items()}
        self._calls.clear()
        self._first_batch, self._previous, self._last = False, None, None
        for trial in self._trials:
            trial.end()


def _same(seen: tuple[Tensor, int], other: tuple[Tensor, int] | None) -> bool:
    return other is not None and seen[0] is other[0] and seen[1] == other[1]
