"""The files of a Hugging Face folder: one, or several and the index that says which of them holds a tensor."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from edgekern.checkpoint.errors import (
    CheckpointCorruptError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    CheckpointUnsupportedError,
)
from edgekern.checkpoint.ranges import TensorFile
from edgekern.checkpoint.stream import INDEX_FILE, TENSORS_FILE
from edgekern.checkpoint.write import sha256_of

_CONFIG_FILE = "config.json"


def open_shards(folder: Path) -> dict[str, TensorFile]:
    """Where each tensor is, by name. Headers are read, and no values.

    Raises:
        CheckpointError: files that are not there, damaged, or at odds with the index; a model that was saved converted.
    """
    if not folder.is_dir():
        raise CheckpointNotFoundError(f"checkpoint: {folder} is not a directory")
    _check_floats(folder / _CONFIG_FILE)
    if (folder / TENSORS_FILE).is_file():
        file = TensorFile(folder / TENSORS_FILE)
        return dict.fromkeys(file, file)
    if not (folder / INDEX_FILE).is_file():
        raise CheckpointNotFoundError(
            f"{folder} holds neither {TENSORS_FILE} nor {INDEX_FILE}; expected what edgekern.save or save_pretrained "
            "writes"
        )
    places = _read_index(folder / INDEX_FILE)
    found: dict[str, TensorFile] = {}
    for name in dict.fromkeys(places.values()):
        if not (folder / name).is_file():
            raise CheckpointNotFoundError(f"{folder} lacks {name}, which {INDEX_FILE} names; copy it again")
        file = TensorFile(folder / name)
        found.update(dict.fromkeys(file, file))
    for tensor, name in places.items():
        if tensor not in found or found[tensor].path.name != name:
            raise CheckpointCorruptError(f"{folder / name} lacks {tensor!r}, which {INDEX_FILE} says it holds")
    return found


def checksum_of_folder(folder: str | os.PathLike[str]) -> str:
    """Of all tensors in a folder; each file is read once, in little memory.

    Raises:
        CheckpointError: as :func:`open_shards`.
    """
    paths = sorted({file.path for file in open_shards(Path(folder)).values()})
    return hashlib.sha256("".join(f"{path.name} {sha256_of(path)}\n" for path in paths).encode()).hexdigest()


def _check_floats(path: Path) -> None:
    if not path.is_file():
        return  # its tensors say enough
    found = _read_json(path).get("quantization_config")
    if found is not None:
        method = found.get("quant_method") if isinstance(found, dict) else found
        raise CheckpointUnsupportedError(
            f"{path.parent} holds a model that was saved converted, by {method!r}; give the floats that it was, or "
            "load it whole and let edgekern.save write it"
        )


def _read_index(path: Path) -> dict[str, str]:
    places = _read_json(path).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointFormatError(f"{path}: weight_map must name a file for each tensor, got {places!r:.100}")
    if outside := [name for name in places.values() if Path(name).name != name]:
        raise CheckpointFormatError(f"{path}: files must be in the same folder, got {outside[0]!r}")
    return places


def _read_json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointFormatError(f"{path} must hold an object, got {type(found).__name__}")
    return found
