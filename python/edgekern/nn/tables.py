"""Embedding tables: which can be converted, and which share their weight with another layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edgekern.nn import NativeEmbedding
from edgekern.nn.layers import LINEAR, TABLE, Layer, tensor_identity


@dataclass(frozen=True)
class Shared:
    """Layers of one weight, which one packed copy serves."""

    owner: Layer
    """That which holds it: the linear layer, or the first table where there is none."""
    tables: tuple[Layer, ...]
    """Those that read from it."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All of them."""
        return (self.owner, *self.tables)


def shared_tables(layers: Sequence[Layer], tied: Mapping[str, str]) -> list[Shared]:
    """The tables among ``layers`` whose weight another layer has too, each with that layer.

    Where two linear layers have it, nobody could say which of them the table should read from: they are not listed.

    Args:
        layers: of one model, in its order.
        tied: parameters that are to be one tensor with another, and that other, where the model has not tied them yet.
    """
    groups: dict[object, list[Layer]] = defaultdict(list)
    for layer in layers:
        weight = layer.module._parameters.get("weight")
        if weight is not None and layer.kind in (LINEAR, TABLE):
            groups[_identity(layer, weight, tied)].append(layer)
    shared = []
    for group in groups.values():
        linears = [layer for layer in group if not layer.is_table]
        tables = [layer for layer in group if layer.is_table]
        if tables and len(group) > 1 and len(linears) <= 1:
            owner = linears[0] if linears else tables.pop(0)
            shared.append(Shared(owner, tuple(tables)))
    return shared


def is_tied(layer: Layer) -> bool:
    """Whether it is a native table that reads another layer's weights."""
    return isinstance(layer.native, NativeEmbedding) and layer.native.tied


def holders_of(layers: Sequence[Layer]) -> dict[nn.Module, str]:
    """Tables whose weight is another layer's, and that layer's name."""
    holders = {table.module: each.owner.name for each in shared_tables(layers, {}) for table in each.tables}
    names: dict[nn.Module, str] = {}
    for layer in layers:
        if (native := layer.native) and not is_tied(layer):
            names[native.table if isinstance(native, NativeEmbedding) else native] = layer.name
    for layer in layers:
        if isinstance(native := layer.native, NativeEmbedding) and native.tied:
            holders[native] = names.get(native.table, "a layer outside of the model")
    return holders


def _identity(layer: Layer, weight: Tensor, tied: Mapping[str, str]) -> object:
    sources = set(tied.values())
    for name in layer.names:
        source = tied.get(f"{name}.weight", f"{name}.weight")
        if source in sources:
            return source
    return tensor_identity(weight)
