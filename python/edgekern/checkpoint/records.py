"""The records of ``edgekern.json``: what a checkpoint says of each native layer and each tensor, checked when read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from edgekern.checkpoint.errors import CheckpointFormatError
from edgekern.config import Scheme, scheme_from_dict

MANIFEST_FILE = "edgekern.json"


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
class ConvRecord:
    """One native convolution: its options are those of ``nn.FusedConv2d``, sizes as pairs. Stored as a layer is."""

    names: tuple[str, ...]
    scheme: Scheme
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int
    padding_mode: str
    same_padding: bool
    pads: tuple[int, int, int, int] | None
    activation: str
    dtype: str
    bias_dtype: str | None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments that make the layer, but for its dtypes and its scheme."""
        others = ("names", "scheme", "dtype", "bias_dtype")
        return {name: value for name, value in vars(self).items() if name not in others}


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


Record: TypeAlias = LayerRecord | ConvRecord | TableRecord
"""What is said of a native layer of any kind."""


Kind = TypeVar("Kind", LayerRecord, ConvRecord, TableRecord)


def layer_record(kind: type[Kind], data: Any) -> Kind:
    """A layer's entry as a record of its kind.

    Raises:
        CheckpointFormatError: a field that is missing or of another type than the record's.
    """
    check_fields(data, kind, "a layer")
    names = strings(data, "names", "a layer")
    if not names:
        raise CheckpointFormatError(f"{MANIFEST_FILE}: a layer has no names")
    where = f"layer {names[0]!r}"
    found: dict[str, Any] = {"names": names, "scheme": _scheme(data, where)}
    types = get_type_hints(kind)
    return kind(**found, **{name: _field(data, name, types[name], where) for name in types if name not in found})


def _scheme(data: Mapping[str, Any], where: str) -> Scheme:
    try:
        scheme = scheme_from_dict(check(data, "scheme", dict, where))
    except (TypeError, ValueError) as error:
        raise CheckpointFormatError(f"{MANIFEST_FILE}: {where}: {error}") from None
    if scheme.carried_out_by != "convert_":
        raise CheckpointFormatError(f"{MANIFEST_FILE}: {where}: {scheme.format!r} is not a format of stored weights")
    return scheme


def _field(data: Mapping[str, Any], key: str, expected: Any, where: str) -> Any:
    """The field ``key``, a plain value or so many whole numbers, or what else its type allows."""
    first, *others = get_args(expected) if isinstance(expected, UnionType) else [expected]
    if type(data[key]) in others:
        return data[key]
    if get_origin(first) is tuple:
        return _sizes(data, key, len(get_args(first)), where)
    return check(data, key, first, where)


def _sizes(data: Mapping[str, Any], key: str, count: int, where: str) -> tuple[int, ...]:
    value = check(data, key, list, where)
    if len(value) != count or not all(type(size) is int for size in value):
        raise CheckpointFormatError(f"{MANIFEST_FILE}: {where}: {key} must be {count} whole numbers, got {value!r}")
    return tuple(value)


def tensor_record(name: str, data: Any) -> TensorRecord:
    """A tensor's entry as a record."""
    where = f"tensor {name!r}"
    check_fields(data, TensorRecord, where)
    shape = check(data, "shape", list, where)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise CheckpointFormatError(f"{MANIFEST_FILE}: {where}: shape must be a list of sizes, got {shape!r}")
    return TensorRecord(check(data, "dtype", str, where), tuple(shape))


def strings(data: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The field ``key`` as a list of strings."""
    values = check(data, key, list, where)
    if not all(isinstance(value, str) for value in values):
        raise CheckpointFormatError(f"{MANIFEST_FILE}: {where}: {key} must be a list of strings")
    return tuple(values)


def check_fields(data: Any, cls: type, where: str) -> None:
    """CheckpointFormatError unless there are exactly the fields of ``cls``."""
    expected = {field.name for field in dataclasses.fields(cls)}
    if not isinstance(data, dict) or data.keys() != expected:
        got = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise CheckpointFormatError(f"{MANIFEST_FILE}: {where} must have exactly {sorted(expected)}, got {got}")


def check(data: Mapping[str, Any], key: str, expected: type, where: str) -> Any:
    """The field ``key``, of the type ``expected``."""
    value = data[key]
    if type(value) is not expected:
        raise CheckpointFormatError(
            f"{MANIFEST_FILE}: {where}: {key} must be {expected.__name__}, got {type(value).__name__}"
        )
    return value
