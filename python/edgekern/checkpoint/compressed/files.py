"""What the safetensors files of a checkpoint hold, by their headers alone, and what a layer's tensors have to be."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgekern.checkpoint.compressed.scheme import StoredAs
from edgekern.checkpoint.errors import CheckpointCorruptError, CheckpointMismatchError, CheckpointNotFoundError
from edgekern.checkpoint.stream import CODES, INDEX_FILE, TENSORS_FILE

# What a compressed layer may hold beside its bias. "weight" is not among them: a float layer has one too.
PARTS = (
    *("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "weight_global_scale"),
    *(f"{side}_{part}" for side in ("input", "output") for part in ("scale", "zero_point", "global_scale")),
)
_DTYPES = {code: dtype for dtype, code in CODES.items()}
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a header describes it."""

    dtype: torch.dtype | None
    """None for one that no layer here has."""
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype or 'of another dtype').removeprefix('torch.')} {list(self.shape)}"


def stored_tensors(folder: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint in ``folder``, by name; only headers are read.

    Raises:
        CheckpointNotFoundError: no safetensors files, or not those that the index names.
        CheckpointCorruptError: a file that is none, an index that is none or names files elsewhere, or both at odds.
    """
    folder = Path(folder)
    if (folder / TENSORS_FILE).is_file():
        return _header(folder / TENSORS_FILE)
    if not (folder / INDEX_FILE).is_file():
        raise CheckpointNotFoundError(f"{folder} holds neither {TENSORS_FILE} nor {INDEX_FILE}")
    places = _index(folder / INDEX_FILE)
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(places.values())):
        if not (folder / file).is_file():
            raise CheckpointNotFoundError(f"{folder} holds no {file}, which {INDEX_FILE} names; copy it again")
        for name, tensor in _header(folder / file).items():
            if places.get(name) != file:
                raise CheckpointCorruptError(
                    f"{file} holds {name!r}, which {INDEX_FILE} places in {places.get(name, 'no file')}"
                )
            tensors[name] = tensor
    if absent := sorted(places.keys() - tensors.keys()):
        raise CheckpointCorruptError(f"{places[absent[0]]} holds no {absent[0]!r}, which {INDEX_FILE} places there")
    return tensors


def _index(path: Path) -> dict[str, str]:
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise CheckpointCorruptError(f"{path} is no index of a checkpoint: {type(error).__name__}: {error}") from None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointCorruptError(f"{path}: weight_map must be a mapping of names to files")
    for name, file in places.items():
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointCorruptError(f"{path} places {name!r} in {file!r}; expected a .safetensors file beside it")
    return places


def _header(path: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it cannot be iterated itself
            return {
                name: StoredTensor(_DTYPES.get(part.get_dtype()), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointCorruptError(f"{path} is not a safetensors file: {error}") from None


_Choice = tuple[tuple[int, ...], tuple[torch.dtype, ...]]


def layer_parts(
    there: Mapping[str, StoredTensor], name: str, stored: StoredAs, shape: tuple[int, int], bias: torch.dtype | None
) -> dict[str, Tensor]:
    """What layer ``name`` loads, as tensors on the meta device, by the last part of their names.

    Args:
        there: what the checkpoint holds of it, likewise.
        name: of the layer.
        stored: how its weights are stored.
        shape: its output and input features, in the model.
        bias: dtype of its bias in the model, if it has one.

    Raises:
        CheckpointMismatchError: a tensor that is missing, that does not belong there, or of another shape or dtype.
    """
    if stored.group_size and shape[1] % stored.group_size:
        raise CheckpointMismatchError(
            f"layer {name!r} of {shape[1]} input features cannot have groups of {stored.group_size}"
        )
    choices = _choices(stored, shape)
    if bias is not None:
        choices["bias"] = [((shape[0],), _FLOATS)]
    # Symmetric layers have no zero points to store; some versions stored their zeros all the same.
    optional = {"weight_g_idx", *(["weight_zero_point"] if stored.symmetric else [])}
    optional |= {"input_zero_point"} if stored.centred else set()
    if absent := [part for part in choices if part not in there and part not in optional]:
        raise CheckpointMismatchError(
            f"layer {name!r}: the checkpoint has no {absent[0]} of it; it has {', '.join(sorted(there)) or 'nothing'}"
        )
    if unknown := sorted(there.keys() - choices.keys()):
        raise CheckpointMismatchError(
            f"layer {name!r}: the checkpoint has a {unknown[0]} of it; expected {', '.join(choices)} and no more"
        )
    for part, tensor in there.items():
        if not any(tensor.shape == size and tensor.dtype in dtypes for size, dtypes in choices[part]):
            expected = " or ".join(
                f"{'/'.join(str(dtype).removeprefix('torch.') for dtype in dtypes)} {list(size)}"
                for size, dtypes in choices[part]
            )
            raise CheckpointMismatchError(
                f"layer {name!r}: its {part} is {tensor} in the checkpoint, expected {expected}"
            )
    # The dtypes are as stored, or reading would cast; but a bias becomes what the model has.
    dtypes = {part: tensor.dtype for part, tensor in there.items()} | ({} if bias is None else {"bias": bias})
    return {part: torch.empty(there[part].shape, dtype=dtype, device="meta") for part, dtype in dtypes.items()}


def _choices(stored: StoredAs, shape: tuple[int, int]) -> dict[str, list[_Choice]]:
    """Shapes and dtypes that the parts of a layer but its bias may have."""
    n, k = shape
    columns = stored.scale_columns(k)
    if stored.packed:
        choices: dict[str, list[_Choice]] = {
            "weight_packed": [((n, -(-k * stored.bits // 32)), (torch.int32,))],
            "weight_shape": [((2,), (torch.int64, torch.int32))],
        }
    else:
        choices = {"weight": [(shape, (torch.int8,))]}
    sizes: dict[str, list[tuple[int, ...]]] = {"channel": [(n, 1), (n,)], "tensor": [(1,), (), (1, 1)]}
    of_scales = sizes.get(stored.strategy, [(n, columns)])
    choices["weight_scale"] = [(size, _FLOATS) for size in of_scales]
    choices["weight_zero_point"] = [(size, (torch.int8,)) for size in of_scales]
    if not stored.symmetric:
        if stored.packed and stored.strategy != "tensor":
            choices["weight_zero_point"].insert(0, ((-(-n * stored.bits // 32), columns), (torch.int32,)))
    choices["weight_g_idx"] = [((k,), (torch.int32, torch.int64))]
    if stored.static:
        choices["input_scale"] = [(size, _FLOATS) for size in sizes["tensor"]]
        choices["input_zero_point"] = [(size, (torch.int8,)) for size in sizes["tensor"]]
    return choices
