"""The batches of a training, with a place to come back to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from edgekern.config.checks import kind_of
from edgekern.train.errors import TrainError
from edgekern.train.generators import generators, set_generators

Batches = Iterable[Any] | Callable[[int], Iterable[Any]]
"""What is gone through in every epoch, or a function that gives it for the number of an epoch."""


class Feed:
    """Groups of batches, each for one step; a group does not go beyond an epoch.

    To come back to a place, the epoch is begun again and its first batches are skipped. They have to be the same ones.
    So the generators are first taken to where they were when the epoch began: what draws its order from them when it is
    iterated over, as a shuffling ``DataLoader`` does, then draws it again.
    """

    def __init__(self, batches: Batches, group: int) -> None:
        if isinstance(batches, Tensor | Mapping | str) or not (callable(batches) or isinstance(batches, Iterable)):
            raise TypeError(
                f"batches: expected an iterable of batches, or a function that gives one for the number of an epoch; "
                f"got {kind_of(batches)}; one batch is [batch]"
            )
        self._batches, self._group = batches, group
        self.passes_once = isinstance(batches, Iterator)
        self.epoch = 0
        self._taken = 0
        self._begun: dict[str, Any] | None = None
        self._iterator: Iterator[Any] | None = None

    @property
    def steps(self) -> int | None:
        """Of an epoch; None where nobody knows."""
        try:
            return math.ceil(len(self._batches) / self._group)  # type: ignore[arg-type]
        except TypeError:
            return None

    def next_group(self) -> list[Any]:
        """The batches of the next step; none at the end of an epoch.

        Raises:
            TrainError: an epoch without a batch.
        """
        if self._iterator is None:
            self._begun = {"generators": generators(), "own": self._own_state()}
            self._iterator = self._begin()
        found = list(islice(self._iterator, self._group))
        self._taken += len(found)
        if not self._taken:
            raise TrainError(f"batches: there is none in epoch {self.epoch}; did an iterator come to its end?")
        return found

    def end_epoch(self) -> None:
        """The next group is the first of the next epoch."""
        self.epoch, self._taken, self._iterator = self.epoch + 1, 0, None

    def state_dict(self) -> dict[str, Any]:
        """The place, for a checkpoint."""
        begun = self._begun if self._iterator is not None else None
        return {"epoch": self.epoch, "taken": self._taken, "begun": begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to a place. The generators are then anywhere.

        Raises:
            TrainError: there are fewer batches than were taken.
        """
        self.epoch, self._taken, self._iterator = state["epoch"], state["taken"], None
        if state["begun"] is None:
            return
        self._begun = begun = dict(state["begun"])
        set_generators(begun["generators"])
        if begun["own"] is not None and (own := self._own()) is not None:
            own.set_state(begun["own"])
        self._iterator = self._begin()
        skipped = sum(1 for _ in islice(self._iterator, self._taken))
        if skipped < self._taken:
            raise TrainError(
                f"batches: the checkpoint was written after {self._taken} batches of epoch {self.epoch}, but there are "
                f"{skipped}; a training goes on with the data that it began with"
            )

    def _begin(self) -> Iterator[Any]:
        if not isinstance(self._batches, Iterable):
            return iter(self._batches(self.epoch))
        for holder in (self._batches, getattr(self._batches, "sampler", None)):
            if callable(set_epoch := getattr(holder, "set_epoch", None)):
                set_epoch(self.epoch)
        return iter(self._batches)

    def _own(self) -> torch.Generator | None:
        """The generator that a DataLoader was given to draw from."""
        own = getattr(self._batches, "generator", None)
        return own if isinstance(own, torch.Generator) else None

    def _own_state(self) -> Tensor | None:
        own = self._own()
        return None if own is None else own.get_state()
