"""Native layers of a saved model: what says which they are, and filling them one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekern.checkpoint import CheckpointFormatError, CheckpointMismatchError
from edgekern.checkpoint.manifest import dtype_name
from edgekern.config import Scheme, scheme_from_dict
from edgekern.nn import (
    NATIVE_CONVS,
    NATIVE_EMBEDDINGS,
    NATIVE_LINEARS,
    NativeConv2d,
    NativeEmbedding,
    NativeLayer,
    NativeLinear,
)
from edgekern.nn.convolution import options_of
from edgekern.nn.huge_pages import gather_weights_
from edgekern.nn.layers import CONV, Layer, find_layers, structural_obstacle
from edgekern.nn.memory import part_of_a_model
from edgekern.nn.swap import replace, return_freed_memory, settle
from edgekern.nn.tables import holders_of

_DTYPES = {dtype_name(dtype): dtype for dtype in NativeLayer.DTYPES}
_FIELDS = {"scheme", "dtype", "bias_dtype", "names"}
_TIED = "tied_to"


@dataclass(frozen=True)
class Record:
    """A native layer; its shape, and whether it is a linear layer, a convolution or a table, is the model's."""

    scheme: Scheme
    dtype: torch.dtype
    bias_dtype: torch.dtype | None
    tied_to: str | None = None
    """Of a table: the name of the layer whose weights it reads."""


def records_of(model: nn.Module) -> dict[str, Record]:
    """The native layers of ``model`` by name."""
    layers = [layer for layer in find_layers(model, tables=True) if layer.native]
    holders = holders_of(layers)
    return {
        layer.name: Record(native.scheme, native.dtype, native.bias_dtype, holders.get(layer.module))
        for layer in layers
        if (native := layer.native)
    }


def records_to_data(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Records as JSON-ready data: those that are alike under one entry."""
    groups: dict[Record, list[str]] = {}
    for name, record in records.items():
        groups.setdefault(record, []).append(name)
    return [
        {
            "scheme": record.scheme.to_dict(),
            "dtype": dtype_name(record.dtype),
            "bias_dtype": None if record.bias_dtype is None else dtype_name(record.bias_dtype),
            "names": names,
            **({} if record.tied_to is None else {_TIED: record.tied_to}),
        }
        for record, names in groups.items()
    ]


def records_from_data(data: object) -> dict[str, Record]:
    """The inverse of :func:`records_to_data`; nothing in ``data`` is imported, executed or taken as a path.

    Raises:
        CheckpointFormatError: not such data; the message says where.
    """
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise CheckpointFormatError(f"layers: expected a list of layers, got {type(data).__name__}")
    records: dict[str, Record] = {}
    for entry in data:
        record, names = _record(entry)
        records.update(dict.fromkeys(names, record))
    return records


def _record(entry: object) -> tuple[Record, list[str]]:
    if not isinstance(entry, Mapping) or entry.keys() - {_TIED} != _FIELDS:
        got = sorted(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
        raise CheckpointFormatError(f"layers: an entry must have exactly {sorted(_FIELDS)}, got {got}")
    names, dtypes = entry["names"], (entry["dtype"], entry["bias_dtype"])
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise CheckpointFormatError("layers: names must be a list of strings")
    tied_to = entry.get(_TIED)
    if tied_to is not None and not isinstance(tied_to, str):
        raise CheckpointFormatError(f"layers: {_TIED} must be the name of a layer, got {tied_to!r}")
    for dtype in dtypes:
        if dtype not in _DTYPES and (dtype is not None or dtypes[0] is None):
            raise CheckpointFormatError(f"layers: dtype must be one of {', '.join(_DTYPES)}; got {dtype!r}")
    try:
        scheme = scheme_from_dict(entry["scheme"])
    except (TypeError, ValueError) as error:
        raise CheckpointFormatError(f"layers: {error}") from None
    if scheme.carried_out_by != "convert_":
        raise CheckpointFormatError(f"layers: {scheme.format!r} is not a format of stored weights")
    bias_dtype = None if dtypes[1] is None else _DTYPES[dtypes[1]]
    return Record(scheme, _DTYPES[dtypes[0]], bias_dtype, tied_to), list(names)


class StoredLayers:
    """Puts a bare module with room for the stored tensors wherever ``records`` has a native layer, and packs them.

    The room is buffers on the meta device, so that whoever fills the model checks names and shapes as always.

    Args:
        model: built on the meta device, with layers of floats.
        records: its native layers by name.

    Raises:
        CheckpointMismatchError: the model has no such layer, or one that cannot be replaced.
    """

    def __init__(self, model: nn.Module, records: Mapping[str, Record]) -> None:
        self.names = tuple(records)
        self._model = model
        layers = {name: layer for layer in find_layers(model, tables=True) for name in layer.names}
        self._natives: list[tuple[Layer, NativeLayer | NativeEmbedding]] = [
            _native(layers.get(name), name, record) for name, record in records.items() if record.tied_to is None
        ]
        made = {name: native for layer, native in self._natives for name in layer.names}
        self._natives += [
            _tied(layers.get(name), name, record, made.get(record.tied_to or ""))
            for name, record in records.items()
            if record.tied_to is not None
        ]
        for layer, native in self._natives:
            room = nn.Module()
            for part, tensor in self._room(layer.name, native).items():
                room.register_buffer(part, tensor)
            replace(layer, room)

    def _room(self, name: str, native: NativeLayer | NativeEmbedding) -> dict[str, Tensor]:
        """What is stored of a layer, on the meta device."""
        return native.canonical_like()

    def _canonical(
        self, name: str, native: NativeLayer | NativeEmbedding, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What the native layer loads, from what was stored."""
        return tensors

    def pack(self, progress: Callable[[int], None]) -> None:
        """Replaces every room by the native layer packed from it; ``progress`` is told the bytes of each.

        Raises:
            CheckpointError: values that cannot be.
        """
        natives = [native for _, native in self._natives if native.canonical_like()]
        shapes = [native.weight_shape for native in natives]
        size = sum(
            native.weight_bytes(math.prod(columns), rows, native.dtype)
            for native, (rows, *columns) in zip(natives, shapes, strict=True)
        )
        del natives
        with part_of_a_model(size):
            while self._natives:
                layer, native = self._natives.pop(0)
                tensors = self._model.get_submodule(layer.name).state_dict()
                try:
                    native.load_state_dict(self._canonical(layer.name, native, tensors))
                except RuntimeError as error:
                    raise CheckpointMismatchError(f"layer {layer.name!r} cannot be packed: {error}") from None
                replace(layer, native)
                progress(sum(tensor.nbytes for tensor in tensors.values()))
        settle(self._model)
        gather_weights_(self._model)
        return_freed_memory()


def _native(layer: Layer | None, name: str, record: Record) -> tuple[Layer, NativeLayer | NativeEmbedding]:
    """The empty native layer that takes the place of the model's."""
    layer = _replaceable(layer, name)
    dtype, bias_dtype = record.dtype, record.bias_dtype
    if layer.is_table:
        rows, columns = layer.shape
        return layer, _table(record, name)(rows, columns, _padding(layer), dtype=dtype, scheme=record.scheme)
    dtypes: dict[str, Any] = {"bias": bias_dtype is not None, "dtype": dtype, "bias_dtype": bias_dtype}
    if layer.kind == CONV:
        try:
            return layer, _conv(record, name)(**options_of(layer.conv), **dtypes, scheme=record.scheme)
        except ValueError as error:
            raise CheckpointMismatchError(f"layer {name!r} of the model cannot be replaced: {error}") from None
    out_features, in_features = layer.shape
    return layer, NATIVE_LINEARS[record.scheme.format](in_features, out_features, **dtypes, scheme=record.scheme)


def _tied(
    layer: Layer | None, name: str, record: Record, holder: NativeLayer | NativeEmbedding | None
) -> tuple[Layer, NativeEmbedding]:
    """The native table that reads the weights of another layer."""
    layer = _replaceable(layer, name)
    weights = holder.table if isinstance(holder, NativeEmbedding) else holder
    if not isinstance(weights, NativeLinear) or not layer.is_table:
        raise CheckpointMismatchError(f"layer {name!r} is tied to {record.tied_to!r}, which is none of the layers")
    try:
        rows, columns = layer.shape
        table = _table(record, name)(rows, columns, _padding(layer), dtype=record.dtype, tied_to=weights)
    except (TypeError, ValueError) as error:
        raise CheckpointMismatchError(f"layer {name!r} cannot be tied to {record.tied_to!r}: {error}") from None
    return layer, table


def _replaceable(layer: Layer | None, name: str) -> Layer:
    if layer is None:
        raise CheckpointMismatchError(f"the model has no layer {name!r}, which the checkpoint converts")
    if not layer.places or layer.native or structural_obstacle(layer) or not layer.shape:
        reason = structural_obstacle(layer) or "it is no plain layer inside of a model"
        raise CheckpointMismatchError(f"layer {name!r} of the model cannot be replaced: {reason}")
    return layer


def _table(record: Record, name: str) -> type[NativeEmbedding]:
    if record.scheme.format not in NATIVE_EMBEDDINGS:
        raise CheckpointMismatchError(f"layer {name!r} is an embedding table, and there are none in {record.scheme!r}")
    return NATIVE_EMBEDDINGS[record.scheme.format]


def _conv(record: Record, name: str) -> type[NativeConv2d]:
    if record.scheme.format not in NATIVE_CONVS:
        raise CheckpointMismatchError(f"layer {name!r} is a convolution, and there are none in {record.scheme!r}")
    return NATIVE_CONVS[record.scheme.format]


def _padding(layer: Layer) -> int | None:
    return cast(nn.Embedding, layer.module).padding_idx
