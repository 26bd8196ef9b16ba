"""Writing a checkpoint."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from edgekern._lib import core
from edgekern.checkpoint.errors import CheckpointError, CheckpointExistsError
from edgekern.checkpoint.manifest import TENSORS_FILE, Manifest, dtype_name
from edgekern.checkpoint.records import MANIFEST_FILE, ConvRecord, LayerRecord, TableRecord, TensorRecord
from edgekern.checkpoint.sparse import split_all
from edgekern.nn import NativeConv2d, NativeEmbedding, NativeLayer, NativeLinear
from edgekern.nn.convolution import options_of
from edgekern.nn.layers import find_layers, tensor_identity
from edgekern.nn.tables import holders_of


def save(model: nn.Module, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Writes ``model`` to ``directory`` as ``model.safetensors`` and ``edgekern.json``.

    The files hold canonical tensors (row-major weights, the scales of quantised ones, all other parameters and
    buffers), the same on every machine. Weights with many zeros are stored as a bit mask and the values that are not
    zero. ``directory`` is made when missing; other files in it stay. Each file appears whole or not at all.

    Args:
        model: any module, usually after ``convert_``.
        directory: where to.
        overwrite: replace the two files when they exist.

    Raises:
        TypeError: ``model`` is not a module.
        CheckpointExistsError: one of the two files exists and ``overwrite`` is false, or the path is not a directory.
        CheckpointError: the model holds something that is not a plain tensor with values.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, NativeLayer | NativeEmbedding):
        kind = type(model).__name__
        raise CheckpointError(f"model: a single {kind} has no name to be saved by; wrap it: nn.Sequential(layer)")
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise CheckpointExistsError(f"directory: {folder} is a file")
    existing = [name for name in (TENSORS_FILE, MANIFEST_FILE) if (folder / name).exists()]
    if existing and not overwrite:
        raise CheckpointExistsError(f"{folder} holds {' and '.join(existing)} already; overwrite=True replaces")
    tensors, aliases, non_persistent = _collect(model)
    layers, convs = _layer_records(model), _conv_records(model)
    tensors, sparse = split_all(tensors, (*layers, *convs))
    folder.mkdir(parents=True, exist_ok=True)
    tensors_part = folder / f".{TENSORS_FILE}.{os.getpid()}.part"
    manifest_part = folder / f".{MANIFEST_FILE}.{os.getpid()}.part"
    try:
        safetensors.torch.save_file(tensors, tensors_part, metadata={"format": "pt"})
        manifest = Manifest(
            edgekern_version=core.version,
            layers=layers,
            tensors={name: TensorRecord(dtype_name(t.dtype), tuple(t.shape)) for name, t in tensors.items()},
            aliases=aliases,
            non_persistent=non_persistent,
            sparse=sparse,
            tables=_table_records(model),
            convs=convs,
            size=tensors_part.stat().st_size,
            sha256=sha256_of(tensors_part),
        )
        manifest_part.write_text(manifest.to_json(), encoding="utf-8")
        # In this order a crash between two steps leaves no description beside tensors that it does not fit.
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
        os.replace(tensors_part, folder / TENSORS_FILE)
        os.replace(manifest_part, folder / MANIFEST_FILE)
    finally:
        tensors_part.unlink(missing_ok=True)
        manifest_part.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _layer_records(model: nn.Module) -> tuple[LayerRecord, ...]:
    return tuple(
        LayerRecord(
            names=layer.names,
            scheme=native.scheme,
            in_features=native.in_features,
            out_features=native.out_features,
            activation=native.activation,
            dtype=dtype_name(native.dtype),
            bias_dtype=None if native.bias_dtype is None else dtype_name(native.bias_dtype),
        )
        for layer in find_layers(model)
        if isinstance(native := layer.native, NativeLinear)
    )


def _conv_records(model: nn.Module) -> tuple[ConvRecord, ...]:
    return tuple(
        ConvRecord(
            names=layer.names,
            scheme=native.scheme,
            **options_of(native),
            dtype=dtype_name(native.dtype),
            bias_dtype=None if native.bias_dtype is None else dtype_name(native.bias_dtype),
        )
        for layer in find_layers(model)
        if isinstance(native := layer.native, NativeConv2d)
    )


def _table_records(model: nn.Module) -> tuple[TableRecord, ...]:
    layers = find_layers(model, tables=True)
    holders = holders_of(layers)
    return tuple(
        TableRecord(
            names=layer.names,
            scheme=native.scheme,
            num_embeddings=native.num_embeddings,
            embedding_dim=native.embedding_dim,
            dtype=dtype_name(native.dtype),
            tied_to=holders.get(native),
        )
        for layer in layers
        if isinstance(native := layer.native, NativeEmbedding)
    )


def _collect(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], tuple[str, ...]]:
    """Tensors to store, aliases among the state dict's entries, and which of the stored are in no state dict."""
    entries: dict[str, object] = dict(model.state_dict())
    hidden = {name: buffer for name, buffer in model.named_buffers() if name not in entries}
    # A layer's other names: its canonical tensors are made anew for each, so their memory cannot tell.
    natives = [layer for layer in find_layers(model, tables=True) if layer.native]
    same_module = {name: layer.name for layer in natives for name in layer.names[1:]}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[object, str] = {}
    for name, value in {**entries, **hidden}.items():
        owner, _, leaf = name.rpartition(".")
        if owner in same_module:
            aliases[name] = f"{same_module[owner]}.{leaf}"
            continue
        tensor = _check_plain(name, value)
        same = first.setdefault(tensor_identity(tensor), name)
        if same == name or name in hidden:
            tensors[name] = tensor
        else:
            aliases[name] = same
    return _apart(tensors), aliases, tuple(hidden)


def _check_plain(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{name!r} in the state dict is a {type(value).__name__}; only tensors can be saved")
    if value.is_meta:
        raise CheckpointError(f"{name!r} is on the meta device and has no values to save")
    if value.layout != torch.strided or type(value) not in (Tensor, nn.Parameter):
        kind = f"{type(value).__name__} of layout {value.layout}"
        raise CheckpointError(f"{name!r} is a {kind}; only plain dense tensors can be saved")
    return value.detach()


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors contiguous and each in memory of its own, as safetensors wants them; the others are copied."""
    memory: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        tensor = tensor.cpu()
        if not tensor.is_contiguous() or tensor.untyped_storage().data_ptr() in memory:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        memory.add(tensor.untyped_storage().data_ptr())
        apart[name] = tensor
    return apart
