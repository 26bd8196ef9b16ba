"""Fashion-MNIST: 70,000 small grey photographs of clothes in ten classes (Xiao et al. 2017, arXiv 1708.07747).

They come with Debian, in the package dataset-fashion-mnist, in the idx format of MNIST.
"""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .packages import MissingDataError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts it."""
_BYTES = 0x08  # idx: the code of unsigned bytes
_MEAN, _DEVIATION = 0.2860, 0.3530  # of the training images' values, 0 to 1


def load_fashion_mnist(train: bool, folder: str | os.PathLike[str] = FASHION_MNIST) -> tuple[Tensor, Tensor]:
    """Images, float32 [N, 1, 28, 28] of mean 0 and deviation 1, and classes, int64 [N]; N is 60,000 or 10,000.

    Raises:
        MissingDataError: the files are not there; the message holds the command that brings them.
        ValueError: a file that is damaged.
    """
    name = "train" if train else "t10k"
    images = read_idx(_found(Path(folder), f"{name}-images-idx3-ubyte"))
    labels = read_idx(_found(Path(folder), f"{name}-labels-idx1-ubyte"))
    if images.ndim != 3 or len(images) != len(labels):
        raise ValueError(f"{folder}: {list(images.shape)} images do not go with {list(labels.shape)} labels")
    return ((images.float() / 255 - _MEAN) / _DEVIATION)[:, None], labels.long()


def read_idx(path: Path) -> Tensor:
    """The bytes of an idx file, uint8 of as many dimensions as it says; unpacked when it ends in .gz.

    Raises:
        ValueError: it is no such file, or cut off.
    """
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(data) < 4 or data[:3] != bytes((0, 0, _BYTES)):
        raise ValueError(f"{path}: no idx file of bytes; it begins with {data[:4].hex()}")
    sizes = np.frombuffer(data, ">u4", count=min(data[3], (len(data) - 4) // 4), offset=4).tolist()
    start = 4 + 4 * data[3]
    if len(data) != start + math.prod(sizes) or len(sizes) != data[3]:
        raise ValueError(f"{path}: expected {sizes} bytes after the first {start}, got {len(data) - start}")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(sizes).copy())


def _found(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise MissingDataError(f"{folder} has no {name}. Install it with: apt-get install dataset-fashion-mnist")
