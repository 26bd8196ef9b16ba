"""Writing safetensors files tensor by tensor, so that what is written is never in memory as a whole.

A file is 8 bytes with the length of its header, the header as JSON (each tensor's dtype, shape, and where its bytes
begin and end), and the bytes without gaps. Wider dtypes come first, as readers want tensors aligned.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The names of dtypes in a header."""
TENSORS_FILE = "model.safetensors"
INDEX_FILE = f"{TENSORS_FILE}.index.json"


def write_tensors(
    folder: Path, like: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]], most_bytes: int
) -> None:
    """Writes ``model.safetensors``, or several files and their index where it would be larger than ``most_bytes``.

    Args:
        folder: to write into.
        like: every tensor on the meta device: those of a file follow each other.
        tensors: the same with values, in any order; each is let go before the next is asked for.
        most_bytes: of a file, unless a single tensor is larger.

    Raises:
        ValueError: a tensor that was not announced, or not as it comes, or that never comes.
    """
    files = _split(like, most_bytes)
    places: dict[str, tuple[Path, int]] = {}
    for number, names in enumerate(files, 1):
        path = folder / (TENSORS_FILE if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors")
        places.update(_begin(path, {name: like[name] for name in names}))
    for name, tensor in tensors:
        if name not in places or (tensor.dtype, tensor.shape) != (like[name].dtype, like[name].shape):
            raise ValueError(
                f"tensor {name!r} was not announced as {tensor.dtype} {list(tensor.shape)}, or comes twice"
            )
        path, start = places.pop(name)
        with path.open("r+b") as file:
            file.seek(start)
            file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if places:
        raise ValueError(f"tensor {next(iter(places))!r} was announced and never came")
    if len(files) > 1:
        index = {
            name: f"model-{number:05}-of-{len(files):05}.safetensors"
            for number, names in enumerate(files, 1)
            for name in names
        }
        total = sum(tensor.nbytes for tensor in like.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2, sort_keys=True)
        (folder / INDEX_FILE).write_text(text + "\n")


def _split(like: Mapping[str, Tensor], most_bytes: int) -> list[list[str]]:
    """The names in each file."""
    files: list[list[str]] = [[]]
    size = 0
    for name, tensor in like.items():
        if files[-1] and size + tensor.nbytes > most_bytes:
            files.append([])
            size = 0
        files[-1].append(name)
        size += tensor.nbytes
    return files


def _begin(path: Path, like: Mapping[str, Tensor]) -> dict[str, tuple[Path, int]]:
    """Writes a file's header and makes room for the tensors; where each of them goes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets: dict[str, int] = {}
    end = 0
    for name, tensor in sorted(like.items(), key=lambda item: (-item[1].itemsize, item[0])):
        offsets[name], end = end, end + tensor.nbytes
        header[name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offsets[name], end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        file.truncate(start + end)
    return {name: (path, start + offset) for name, offset in offsets.items()}
