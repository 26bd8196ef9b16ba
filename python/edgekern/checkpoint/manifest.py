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
from edgekern.checkpoint.records import (
    MANIFEST_FILE,
    ConvRecord,
    LayerRecord,
    Record,
    TableRecord,
    TensorRecord,
    check,
    check_fields,
    layer_record,
    strings,
    tensor_record,
)
from edgekern.config import Int4

FORMAT = "edgekern"
# The lowest that says what there is: a file is not newer than it has to be.
VERSION_DENSE = 1
VERSION_SPARSE = 2  # weights that are stored as mask and values
VERSION_SPARSE_INT4 = 3  # int4 weights among those, whose values are two to a byte
VERSION_TABLES = 4  # native embedding tables
VERSION_CONVS = 5  # native convolutions
VERSIONS = (VERSION_DENSE, VERSION_SPARSE, VERSION_SPARSE_INT4, VERSION_TABLES, VERSION_CONVS)
_SINCE = {"sparse": VERSION_SPARSE, "tables": VERSION_TABLES, "convs": VERSION_CONVS}
"""Fields that older versions lack, and the version that brought each."""
TENSORS_FILE = "model.safetensors"


def dtype_name(dtype: torch.dtype) -> str:
    """``"float32"`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


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
    convs: tuple[ConvRecord, ...]
    size: int
    """Bytes of the tensor file."""
    sha256: str
    """Checksum of the tensor file."""

    @property
    def records(self) -> tuple[Record, ...]:
        """Those of linear layers, of convolutions, and of tables."""
        return (*self.layers, *self.convs, *self.tables)

    def to_json(self) -> str:
        """The text of ``edgekern.json``."""
        kinds: dict[str, tuple[Record, ...]] = {"layers": self.layers, "tables": self.tables, "convs": self.convs}
        version = self._version()
        entries = {kind: [_entry(record) for record in records] for kind, records in kinds.items()}
        data = {"format": FORMAT, "format_version": version, **dataclasses.asdict(self), **entries}
        for field, since in _SINCE.items():
            if version < since:
                del data[field]
        return json.dumps(data, indent=1) + "\n"

    def _version(self) -> int:
        if self.convs:
            return VERSION_CONVS
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
        for field, since in _SINCE.items():
            if version < since:
                data.setdefault(field, [])
        check_fields(data, cls, "the file")
        return cls(
            edgekern_version=check(data, "edgekern_version", str, "the file"),
            layers=tuple(layer_record(LayerRecord, entry) for entry in check(data, "layers", list, "the file")),
            tensors={
                name: tensor_record(name, entry) for name, entry in check(data, "tensors", dict, "the file").items()
            },
            aliases=_aliases(data),
            non_persistent=_non_persistent(data),
            sparse=_sparse(data),
            tables=tuple(layer_record(TableRecord, entry) for entry in check(data, "tables", list, "the file")),
            convs=tuple(layer_record(ConvRecord, entry) for entry in check(data, "convs", list, "the file")),
            size=check(data, "size", int, "the file"),
            sha256=check(data, "sha256", str, "the file"),
        )


def _entry(record: Record) -> dict[str, Any]:
    return {**dataclasses.asdict(record), "scheme": record.scheme.to_dict()}


def _aliases(data: Mapping[str, Any]) -> dict[str, str]:
    aliases = check(data, "aliases", dict, "the file")
    stored = {*data["tensors"], *_sparse(data)}
    for name, target in aliases.items():
        if not isinstance(target, str) or target not in stored or name in stored:
            raise CheckpointFormatError(f"{MANIFEST_FILE}: alias {name!r} must name a stored tensor, got {target!r}")
    return aliases


def _non_persistent(data: Mapping[str, Any]) -> tuple[str, ...]:
    names = strings(data, "non_persistent", "the file")
    for name in names:
        if name not in data["tensors"]:
            raise CheckpointFormatError(f"{MANIFEST_FILE}: non_persistent names {name!r}, which is no stored tensor")
    return names


def _sparse(data: Mapping[str, Any]) -> tuple[str, ...]:
    names = strings(data, "sparse", "the file")
    for name in names:
        owner, _, leaf = name.rpartition(".")
        parts = [f"{owner}.{part}" for part in PARTS]
        if leaf != WEIGHT or name in data["tensors"] or not all(part in data["tensors"] for part in parts):
            missing = f"but {', '.join(parts)} are not all stored"
            raise CheckpointFormatError(f"{MANIFEST_FILE}: sparse names {name!r}, {missing}")
    return names
