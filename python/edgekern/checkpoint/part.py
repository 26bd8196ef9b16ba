"""Reading a part of a checkpoint into a model, for a process that holds and runs that part alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from edgekern.checkpoint.bitmask import PARTS
from edgekern.checkpoint.errors import CheckpointCorruptError, CheckpointMismatchError
from edgekern.checkpoint.fit import find_places, fit
from edgekern.checkpoint.manifest import TENSORS_FILE, Manifest
from edgekern.checkpoint.ranges import TensorFile
from edgekern.checkpoint.read import bytes_of, check_listed, make_conv, make_linear, make_tables, read_manifest
from edgekern.checkpoint.records import Record, TableRecord
from edgekern.checkpoint.sparse import join_all
from edgekern.checkpoint.write import sha256_of
from edgekern.nn import NativeEmbedding, NativeLayer
from edgekern.nn.layers import Layer
from edgekern.nn.memory import part_of_a_model
from edgekern.nn.swap import replace, return_freed_memory, settle

Keep = Callable[[str], bool]
Change = Callable[[str, NativeLayer], nn.Module]


def load_part(
    model: nn.Module,
    directory: str | os.PathLike[str],
    keep: Keep,
    *,
    change: Change | None = None,
    verify: bool = True,
) -> None:
    """Fills a part of a model on the meta device with what ``save`` wrote; the rest stays on the meta device.

    The checkpoint is compared with the whole model first, so one that belongs to another model is refused whatever part
    is asked for. Of the file, the header and the tensors of the part are read, layer by layer: the peak is what the
    part takes, and a layer as it is stored.

    Args:
        model: built on the meta device, by the same code as the saved one.
        directory: what ``save`` was given.
        keep: whether a layer, a parameter or a buffer of a name belongs to the part.
        change: what to put in place of a native layer, given its name and the layer.
        verify: compare the checksum, for which the whole file is read, in little memory.

    Raises:
        TypeError: ``model`` is not a module.
        CheckpointError: as ``load`` raises them; CheckpointMismatchError also where the part is not on the meta device.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    folder = Path(directory)
    manifest = read_manifest(folder)
    path = folder / TENSORS_FILE
    if verify and (path.stat().st_size != manifest.size or sha256_of(path) != manifest.sha256):
        raise CheckpointCorruptError(f"{path} has changed since it was saved (SHA-256 differs); copy it again")
    stored = TensorFile(path)
    check_listed({name: stored.like(name) for name in stored}, manifest, path)
    layers = find_places(model, manifest)
    others = fit(model, layers, manifest, _likes(stored, manifest))
    part = _Part(stored, manifest, keep)
    states = {name: manifest.aliases.get(name, name) for name in others.state if keep(name)}
    hidden = [name for name in others.hidden if keep(name)]
    check_meta(model, [*states, *hidden])
    natives = part.make(layers)
    for layer, native in natives:
        made = native if change is None or isinstance(native, NativeEmbedding) else change(layer.name, native)
        replace(layer, made)
    part.fill(model, states, hidden)
    settle(model)
    return_freed_memory()


class _Part:
    """What of a checkpoint is read, and how."""

    def __init__(self, stored: TensorFile, manifest: Manifest, keep: Keep) -> None:
        self._stored, self._manifest = stored, manifest
        self._kept = {record for record in manifest.records if any(map(keep, record.names))}
        # A table that reads another layer's weights needs that layer, whoever calls it.
        holders = {record.tied_to for record in self._kept if isinstance(record, TableRecord)}
        self._needed = {record for record in manifest.records if holders & set(record.names)} | self._kept

    def make(self, layers: list[Layer]) -> list[tuple[Layer, NativeLayer | NativeEmbedding]]:
        """The native layers of the part, with their places in the model."""
        manifest, sparse = self._manifest, self._manifest.sparse
        kept = dataclasses.replace(
            manifest,
            layers=tuple(record for record in manifest.layers if record in self._needed),
            convs=tuple(record for record in manifest.convs if record in self._needed),
            tables=tuple(record for record in manifest.tables if record in self._needed),
        )
        with part_of_a_model(sum(map(bytes_of, kept.layers))):
            linears = [make_linear(record, self._read(record), sparse) for record in kept.layers]
            convs = [make_conv(record, self._read(record), sparse) for record in kept.convs]
        own = [record for record in kept.tables if record.tied_to is None]
        tables = make_tables(kept, linears, {k: v for record in own for k, v in self._read(record).items()})
        made = dict(zip(kept.records, [*linears, *convs, *tables], strict=True))
        natives: list[tuple[Layer, NativeLayer | NativeEmbedding]] = []
        for layer, record in zip(layers, manifest.records, strict=True):
            if record in self._kept:
                native = cast("NativeLayer | NativeEmbedding", made[record])
                if isinstance(native, NativeEmbedding):
                    native.padding_idx = cast(nn.Embedding, layer.module).padding_idx
                natives.append((layer, native))
        return natives

    def fill(self, model: nn.Module, states: dict[str, str], hidden: list[str]) -> None:
        """Puts in what is in no native layer. Names of one tensor get one."""
        made: dict[str, Tensor] = {}
        for name, source in states.items():
            module, attribute = _slot(model, name)
            if attribute in module._buffers:
                module._buffers[attribute] = made.setdefault(source, self._tensor(source, made))
                continue
            old = module._parameters[attribute]
            value = made.setdefault(source, self._tensor(source, made))
            if not isinstance(value, nn.Parameter):
                value = made[source] = nn.Parameter(value, requires_grad=old is not None and old.requires_grad)
            module._parameters[attribute] = value
        for name in hidden:
            module, attribute = _slot(model, name)
            module._buffers[attribute] = self._stored.read(name)

    def _tensor(self, name: str, made: dict[str, Tensor]) -> Tensor:
        if name in made:
            return made[name]
        if name not in self._manifest.sparse:
            return self._stored.read(name)
        owner = name.rpartition(".")[0]
        parts = {f"{owner}.{part}": self._stored.read(f"{owner}.{part}") for part in PARTS}
        return join_all(parts, (name,), ())[name]

    def _read(self, record: Record) -> dict[str, Tensor]:
        prefix = f"{record.names[0]}."
        return {name: self._stored.read(name) for name in self._stored if name.startswith(prefix)}


def _likes(stored: TensorFile, manifest: Manifest) -> dict[str, Tensor]:
    """What is in no native layer, on the meta device: weights that are stored as mask and values as they will be."""
    inside = tuple(f"{name}." for record in manifest.records for name in record.names)
    likes = {name: stored.like(name) for name in stored if not name.startswith(inside)}
    for name in manifest.sparse:
        owner = name.rpartition(".")[0]
        if not name.startswith(inside):
            shape = [int(size) for size in stored.read(f"{owner}.shape").flatten()]
            dtype = likes[f"{owner}.compressed"].dtype
            for part in PARTS:
                del likes[f"{owner}.{part}"]
            likes[name] = torch.empty(shape, dtype=dtype, device="meta")
    return likes


def _slot(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, attribute = name.rpartition(".")
    return model.get_submodule(owner), attribute


def check_meta(model: nn.Module, names: list[str]) -> None:
    """CheckpointMismatchError unless these parameters and buffers have no values yet."""
    for name in names:
        module, attribute = _slot(model, name)
        tensor = {**module._parameters, **module._buffers}.get(attribute)
        if tensor is None or not tensor.is_meta:
            raise CheckpointMismatchError(
                f"{name!r} of the model has values already; build the model on the meta device: "
                "with torch.device('meta')"
            )
