"""Reading a checkpoint into a fresh model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edgekern.checkpoint.errors import (
    CheckpointCorruptError,
    CheckpointFormatError,
    CheckpointNotFoundError,
)
from edgekern.checkpoint.fit import fill, find_places, fit
from edgekern.checkpoint.manifest import TENSORS_FILE, Manifest, dtype_name
from edgekern.checkpoint.records import MANIFEST_FILE, ConvRecord, LayerRecord, TableRecord
from edgekern.checkpoint.sparse import join_all
from edgekern.checkpoint.write import sha256_of
from edgekern.nn import NATIVE_CONVS, NATIVE_EMBEDDINGS, NATIVE_LINEARS, NativeEmbedding, NativeLayer, NativeLinear
from edgekern.nn.huge_pages import gather_weights_
from edgekern.nn.memory import part_of_a_model
from edgekern.nn.swap import replace, return_freed_memory, settle, uninterrupted

M = TypeVar("M", bound=nn.Module)

_DTYPES = {dtype_name(dtype): dtype for dtype in NativeLayer.DTYPES}


def load(model: M, directory: str | os.PathLike[str]) -> M:
    """Fills a fresh model with what ``save`` wrote: native layers where there were some, and every other tensor.

    ``model`` is built by the same code as the saved one, with dense layers; on the meta device (``with
    torch.device("meta")``) it costs no memory. The files and the model are checked against each other first; when
    anything is wrong the model stays as it was. Nothing in the files is imported or executed.

    Args:
        model: the model to fill, in place.
        directory: what ``save`` was given.

    Returns:
        ``model``.

    Raises:
        TypeError: ``model`` is not a module.
        CheckpointError: one of its subclasses says what is wrong: not found, format, version, corrupt, or mismatch.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    folder = Path(directory)
    manifest = read_manifest(folder)
    tensors = _open_tensors(folder, manifest)
    convs = [make_conv(record, tensors, manifest.sparse) for record in manifest.convs]
    with part_of_a_model(sum(map(bytes_of, manifest.layers)) + sum(conv.packed_bytes for conv in convs)):
        linears = [make_linear(record, tensors, manifest.sparse) for record in manifest.layers]
        natives = [*linears, *convs, *make_tables(manifest, linears, tensors)]
    layers = find_places(model, manifest)
    for layer, native in zip(layers, natives, strict=True):
        if isinstance(native, NativeEmbedding):
            native.padding_idx = cast(nn.Embedding, layer.module).padding_idx
    native_parts = tuple(f"{name}." for record in manifest.records for name in record.names)
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(native_parts)}
    tensors = join_all(others, manifest.sparse, ())
    plan = fit(model, layers, manifest, tensors)
    with uninterrupted():
        for layer, native in zip(layers, natives, strict=True):
            replace(layer, native)
        fill(model, plan)
        settle(model)
    gather_weights_(model)
    return_freed_memory()
    return model


def stored_shapes(directory: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """The shape of each entry of the state dict that ``save`` wrote, of a model without native layers.

    Raises:
        CheckpointError: see ``load``.
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    shapes = {name: record.shape for name, record in manifest.tensors.items()}
    tensors = _open_tensors(folder, manifest) if manifest.sparse else {}
    for name in manifest.sparse:
        shapes[name] = tuple(tensors[f"{name.rpartition('.')[0]}.shape"].tolist())
    return shapes | {name: shapes[stored] for name, stored in manifest.aliases.items()}


# ------------------------------------------------------------------------------------------------- the files


def read_manifest(folder: Path) -> Manifest:
    """The description in a folder.

    Raises:
        CheckpointError: there is none, or it is of another kind or version.
    """
    if not folder.is_dir():
        raise CheckpointNotFoundError(f"directory: {folder} is not a directory")
    for name in (MANIFEST_FILE, TENSORS_FILE):
        if not (folder / name).is_file():
            raise CheckpointNotFoundError(f"{folder} holds no {name}; expected what edgekern.save writes")
    try:
        text = (folder / MANIFEST_FILE).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointFormatError(f"{MANIFEST_FILE} is not UTF-8 text: {error}") from None
    return Manifest.from_json(text)


def _open_tensors(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    """The stored tensors, backed by the file: only what is touched takes memory."""
    path = folder / TENSORS_FILE
    size = path.stat().st_size
    if size != manifest.size:
        raise CheckpointCorruptError(f"{path} has {size} bytes, {MANIFEST_FILE} says {manifest.size}; copy it again")
    if sha256_of(path) != manifest.sha256:
        raise CheckpointCorruptError(f"{path} has changed since it was saved (SHA-256 differs); copy it again")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it cannot be iterated itself
    except SafetensorError as error:
        raise CheckpointCorruptError(f"{path} is not a safetensors file: {error}") from None
    check_listed(tensors, manifest, path)
    return tensors


def check_listed(tensors: Mapping[str, Tensor], manifest: Manifest, path: Path) -> None:
    """CheckpointCorruptError unless a file's tensors are those that the description lists."""
    found = {name: (dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    listed = {name: (record.dtype, record.shape) for name, record in manifest.tensors.items()}
    if found != listed:
        name = min(name for name in found.keys() | listed.keys() if found.get(name) != listed.get(name))
        there, said = found.get(name, "missing"), listed.get(name, "nothing")
        raise CheckpointCorruptError(f"{path}: tensor {name!r} is {there}, {MANIFEST_FILE} says {said}")


def bytes_of(record: LayerRecord) -> int:
    """Of a linear layer's packed weights."""
    native = NATIVE_LINEARS[record.scheme.format]
    return native.weight_bytes(record.in_features, record.out_features, _DTYPES.get(record.dtype, torch.float32))


def make_linear(record: LayerRecord, tensors: dict[str, Tensor], sparse: tuple[str, ...]) -> NativeLinear:
    """The packed layer of one record."""
    name, dtypes = record.names[0], _dtypes_of(record)
    kind, sizes = NATIVE_LINEARS[record.scheme.format], (record.in_features, record.out_features)
    try:
        native = kind(*sizes, activation=record.activation, scheme=record.scheme, **dtypes)
    except ValueError as error:
        raise CheckpointFormatError(f"{MANIFEST_FILE}: layer {name!r}: {error}") from None
    _fill(native, name, tensors, sparse, (record,))
    return native


def make_conv(record: ConvRecord, tensors: dict[str, Tensor], sparse: tuple[str, ...]) -> NativeLayer:
    """The packed convolution of one record."""
    name, dtypes, kind = record.names[0], _dtypes_of(record), NATIVE_CONVS.get(record.scheme.format)
    if kind is None:
        what = f"a convolution cannot be of scheme {record.scheme!r}"
        raise CheckpointFormatError(f"{MANIFEST_FILE}: layer {name!r}: {what}")
    try:
        native = kind(**record.options, scheme=record.scheme, **dtypes)
    except ValueError as error:
        raise CheckpointFormatError(f"{MANIFEST_FILE}: layer {name!r}: {error}") from None
    _fill(native, name, tensors, sparse, (record,))
    return native


def _dtypes_of(record: LayerRecord | ConvRecord) -> dict[str, Any]:
    """What a record says of dtypes, and whether there is a bias, as arguments of a layer."""
    if record.dtype not in _DTYPES or (record.bias_dtype or record.dtype) not in _DTYPES:
        where = f"{MANIFEST_FILE}: layer {record.names[0]!r}"
        raise CheckpointFormatError(f"{where}: dtype must be one of {', '.join(_DTYPES)}")
    bias_dtype = None if record.bias_dtype is None else _DTYPES[record.bias_dtype]
    return {"bias": bias_dtype is not None, "dtype": _DTYPES[record.dtype], "bias_dtype": bias_dtype}


def make_tables(manifest: Manifest, linears: list[NativeLinear], tensors: dict[str, Tensor]) -> list[NativeEmbedding]:
    """The packed table of each record; where it is tied, one that reads from the layer it is tied to."""
    holders = {name: native for record, native in zip(manifest.layers, linears, strict=True) for name in record.names}
    made: dict[TableRecord, NativeEmbedding] = {}
    for record in sorted(manifest.tables, key=lambda record: record.tied_to is not None):
        name, kind = record.names[0], NATIVE_EMBEDDINGS.get(record.scheme.format)
        if record.dtype not in _DTYPES or kind is None:
            what = f"scheme {record.scheme!r}" if kind is None else f"dtype {record.dtype!r}"
            raise CheckpointFormatError(f"{MANIFEST_FILE}: layer {name!r}: a table cannot be of {what}")
        sizes, dtype, tied_to = (record.num_embeddings, record.embedding_dim), _DTYPES[record.dtype], None
        if record.tied_to is not None and (tied_to := holders.get(record.tied_to)) is None:
            raise CheckpointFormatError(f"{MANIFEST_FILE}: layer {name!r} is tied to {record.tied_to!r}, which is none")
        try:
            table = kind(*sizes, dtype=dtype, scheme=record.scheme, tied_to=tied_to)
        except (TypeError, ValueError) as error:
            raise CheckpointFormatError(f"{MANIFEST_FILE}: layer {name!r}: {error}") from None
        if tied_to is None:
            _fill(table, name, tensors, manifest.sparse, ())
            holders.update(dict.fromkeys(record.names, table.table))
        made[record] = table
    return [made[record] for record in manifest.tables]


def _fill(
    native: NativeLayer | NativeEmbedding,
    name: str,
    tensors: dict[str, Tensor],
    sparse: tuple[str, ...],
    layers: tuple[LayerRecord | ConvRecord, ...],
) -> None:
    """Packs the stored tensors of one layer."""
    prefix = f"{name}."
    stored = join_all({key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}, sparse, layers)
    own = {key.removeprefix(prefix): tensor for key, tensor in stored.items()}
    try:
        native.load_state_dict(own)
    except RuntimeError as error:
        raise CheckpointCorruptError(f"layer {name!r} of the checkpoint cannot be packed: {error}") from None
