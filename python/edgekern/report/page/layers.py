"""The layers of a model before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ...compress.record import LayerRecord, Measured
from .texts import ELLIPSIS

Sides: TypeAlias = tuple[float | None, float | None]
"""A number before and after; None where there was no such layer, or it was not measured."""


@dataclass(frozen=True)
class LayerPair:
    """A layer of the model before, of the model after, or of both."""

    name: str
    before: LayerRecord | None
    after: LayerRecord | None

    @property
    def form(self) -> str:
        """What it computes with now."""
        return "removed" if self.after is None else self.after.form

    @property
    def parameters(self) -> int:
        """How many weights it has, or had."""
        return next(side.parameters for side in (self.after, self.before) if side is not None)

    @property
    def bytes(self) -> Sides:
        """Of its weights."""
        return (self.before.bytes if self.before else None, self.after.bytes if self.after else None)

    @property
    def milliseconds(self) -> Sides:
        """Of a call."""
        return (self.before.milliseconds if self.before else None, self.after.milliseconds if self.after else None)

    @property
    def error(self) -> float | None:
        """Of the model after."""
        return None if self.after is None else self.after.error


def paired(before: Measured | None, after: Measured) -> tuple[LayerPair, ...]:
    """Layers by name: in the order of the model after, then those that it has no more."""
    old: dict[str, LayerRecord] = {} if before is None else {layer.name: layer for layer in before.layers}
    new = {layer.name: layer for layer in after.layers}
    names = [*new, *(name for name in old if name not in new)]
    return tuple(LayerPair(name, old.get(name), new.get(name)) for name in names)


def shortened(names: Sequence[str]) -> list[str]:
    """Names of layers without the modules that all of them are in: what tells them apart has to fit in a chart."""
    parts = [name.split(".") for name in names]
    shared = 0
    while len(names) > 1 and all(len(each) > shared + 1 and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    return [f"{ELLIPSIS}{'.'.join(each[shared:])}" if shared else name for name, each in zip(names, parts, strict=True)]
