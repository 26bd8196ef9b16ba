"""``edgekern.json``: what a checkpoint holds. Data only: nothing in it is imported, executed, or taken as a path.

It names no instruction set and no thread count, so a checkpoint means the same on every machine.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from edgekern.checkpoint.bitmask import PARTS, WEIGHT
from edgekern.checkpoint.errors import CheckpointFormatError, CheckpointVersionError
from edgekern.config import Int4, Scheme, scheme_from_dict

FORMAT = "edgekern"
# The lowest that says what there is: a file is not newer than it has to be.
VERSION_DENSE = 1
VERSION_SPARSE = 2  # weights that are stored as mask and values
VERSION_SPARSE_INT4 = 3  # int4 weights among those, whose values are two to a byte
VERSION_TABLES = 4  # native embedding tables
VERSIONS = (VERSION_DENSE, VERSION_SPARSE, VERSION_SPARSE_INT4, VERSION_TABLES)
MANIFEST_FILE = "edgekern.json"
TENSORS_FILE = "model.safetensors"


def dtype_name(dtype: torch.dtype) -> str:
    """``"float32"`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class TensorRecord:
    """One tensor of the file: dtype without ``torch.``, and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LayerRecord:
    """One native layer. Its tensors are stored under the first of its names."""

    names: tuple[str, ...]
    scheme: Scheme
    in_features: int
    out_features: int
    activation: str
    dtype: str
    bias_dtype: str | None


@dataclass(frozen=True)
class TableRecord:
    """One native embedding table. Its tensors are stored under the first of its names, or of those it is tied to."""

    names: tuple[str, ...]
    scheme: Scheme
    num_embeddings: int
    embedding_dim: int
    dtype: str
    tied_to: str | None
    """Name of the layer whose weights it reads; None where it has its own."""


@dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint but the tensors' bytes."""

    edgekern_version: str
    layers: tuple[LayerRecord, ...]
    tensors: dict[str, TensorRecord]
    aliases: dict[str, str]
    """Name of a state-dict entry that is not stored -> the stored one it is equal to, since both are one tensor."""
    non_persistent: tuple[str, ...]
    """Stored buffers that are in no state dict; they fill a model that was built on the meta device."""
    sparse: tuple[str, ...]
    """Weights that are stored as mask and values; see ``bitmask.py`` and ``nibbles.py``."""
    tables: tuple[TableRecord, ...]
    size: int
    """Bytes of the tensor file."""
    sha256: str
    """Checksum of the tensor file."""

    @property
    def records(self) -> tuple[LayerRecord | TableRecord, ...]:
        """Those of layers, then those of tables."""
        return (*self.layers, *self.tables)

    def to_json(self) -> str:
        """The text of ``edgekern.json``."""
        layers = [{**dataclasses.asdict(layer), "scheme": layer.scheme.to_dict()} for layer in self.layers]
        tables = [{**dataclasses.asdict(table), "scheme": table.scheme.to_dict()} for table in self.tables]
        version = self._version()
        fields = {**dataclasses.asdict(self), "layers": layers, "tables": tables}
        data = {"format": FORMAT, "format_version": version, **fields}
        if version == VERSION_DENSE:
            del data["sparse"]
        if version < VERSION_TABLES:
            del data["tables"]
        return json.dumps(data, indent=1) + "\n"

    def _version(self) -> int:
        if self.tables:
            return VERSION_TABLES
        if not self.sparse:
            return VERSION_DENSE
        int4 = {f"{layer.names[0]}.{WEIGHT}" for layer in self.layers if isinstance(layer.scheme, Int4)}
        return VERSION_SPARSE if int4.isdisjoint(self.sparse) else VERSION_SPARSE_INT4

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The inverse of ``to_json``; every field is checked.

        Raises:
            CheckpointFormatError: not such a text; the message names the field.
            CheckpointVersionError: another version of the format.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointFormatError(f"{MANIFEST_FILE} is not JSON: {error}") from None
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise CheckpointFormatError(f'{MANIFEST_FILE} has no "format": "{FORMAT}"; it describes something else')
        version = data.pop("format_version", None)
        if version not in VERSIONS or isinstance(version, bool):
            raise CheckpointVersionError(
                f"{MANIFEST_FILE} has format_version {version!r}, this edgekern reads up to {VERSIONS[-1]}; "
                "save the model again, or use the edgekern that wrote it"
            )
        if version == VERSION_DENSE:
            data.setdefault("sparse", [])
        if version < VERSION_TABLES:
            data.setdefault("tables", [])
        _check_fields(data, cls, "the file")
        return cls(
            edgekern_version=_check(data, "edgekern_version", str, "the file"),
            layers=tuple(_layer(entry) for entry in _check(data, "layers", list, "the file")),
            tensors={name: _tensor(name, entry) for name, entry in _check(data, "tensors", dict, "the file").items()},
            aliases=_aliases(data),
            non_persistent=_non_persistent(data),
            sparse=_sparse(data),
            tables=tuple(_table(entry) for entry in _check(data, "tables", list, "the file")),
            size=_check(data, "size", int, "the file"),
            sha256=_check(data, "sha256", str, "the file"),
        )


def _layer(data: Any) -> LayerRecord:
    names, scheme, where = _named(data, LayerRecord)
    return LayerRecord(
        names=names,
        scheme=scheme,
        in_features=_check(data, "in_features", int, where),
        out_features=_check(data, "out_features", int, where),
        activation=_check(data, "activation", str, where),
        dtype=_check(data, "dtype", str, where),
        bias_dtype=None if data["bias_dtype"] is None else _check(data, "bias_dtype", str, where),
    )


def _table(data: Any) -> TableRecord:
    names, scheme, where = _named(data, TableRecord)
    return TableRecord(
        names=names,
        scheme=scheme,
        num_embeddings=_check(data, "num_embeddings", int, where),
        embedding_dim=_check(data, "embedding_dim", int, where),
        dtype=_check(data, "dtype", str, where),
        tied_to=None if data["tied_to"] is None else _check(data, "tied_to", str, where),
    )


def _named(data: Any, record: type) -> tuple[tuple[str, ...], Scheme, str]:
    """What records have in common: names, scheme, and what to call it in messages."""
    _check_fields(data, record, "a layer")
    names = _strings(data, "names", "a layer")
    if not names:
        raise CheckpointFormatError(f"{MANIFEST_FILE}: a layer has no names")
    where = f"layer {names[0]!r}"
    try:
        scheme = scheme_from_dict(_check(data, "scheme", dict, where))
    except (TypeError, ValueError) as error:
        raise CheckpointFormatError(f"{MANIFEST_FILE}: {where}: {error}") from None
    if scheme.carried_out_by != "convert_":
        raise CheckpointFormatError(f"{MANIFEST_FILE}: {where}: {scheme.format!r} is not a format of stored weights")
    return names, scheme, where


def _tensor(name: str, data: Any) -> TensorRecord:
    where = f"tensor {name!r}"
    _check_fields(data, TensorRecord, where)
    shape = _check(data, "shape", list, where)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise CheckpointFormatError(f"{MANIFEST_FILE}: {where}: shape must be a list of sizes, got {shape!r}")
    return TensorRecord(_check(data, "dtype", str, where), tuple(shape))


def _aliases(data: Mapping[str, Any]) -> dict[str, str]:
    aliases = _check(data, "aliases", dict, "the file")
    stored = {*data["tensors"], *_sparse(data)}
    for name, target in aliases.items():
        if not isinstance(target, str) or target not in stored or name in stored:
            raise CheckpointFormatError(f"{MANIFEST_FILE}: alias {name!r} must name a stored tensor, got {target!r}")
    return aliases


def _non_persistent(data: Mapping[str, Any]) -> tuple[str, ...]:
    names = _strings(data, "non_persistent", "the file")
    for name in names:
        if name not in data["tensors"]:
            raise CheckpointFormatError(f"{MANIFEST_FILE}: non_persistent names {name!r}, which is no stored tensor")
    return names


def _sparse(data: Mapping[str, Any]) -> tuple[str, ...]:
    names = _strings(data, "sparse", "the file")
    for name in names:
        owner, _, leaf = name.rpartition(".")
        parts = [f"{owner}.{part}" for part in PARTS]
        if leaf != WEIGHT or name in data["tensors"] or not all(part in data["tensors"] for part in parts):
            missing = f"but {', '.join(parts)} are not all stored"
            raise CheckpointFormatError(f"{MANIFEST_FILE}: sparse names {name!r}, {missing}")
    return names


def _strings(data: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = _check(data, key, list, where)
    if not all(isinstance(value, str) for value in values):
        raise CheckpointFormatError(f"{MANIFEST_FILE}: {where}: {key} must be a list of strings")
    return tuple(values)


def _check_fields(data: Any, cls: type, where: str) -> None:
    expected = {field.name for field in dataclasses.fields(cls)}
    if not isinstance(data, dict) or data.keys() != expected:
        got = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise CheckpointFormatError(f"{MANIFEST_FILE}: {where} must have exactly {sorted(expected)}, got {got}")


def _check(data: Mapping[str, Any], key: str, expected: type, where: str) -> Any:
    value = data[key]
    if type(value) is not expected:
        raise CheckpointFormatError(
            f"{MANIFEST_FILE}: {where}: {key} must be {expected.__name__}, got {type(value).__name__}"
        )
    return value
