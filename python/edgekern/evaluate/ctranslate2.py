"""Reading a model file of CTranslate2, version 6: named arrays, and names that stand for others.

The layout is that of the project's own writer (its Python package, specs/model_spec.py): little-endian, strings with
their length and an ending zero, arrays with shape, a code for the type, and their bytes.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

_VERSION = 6
_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)


def read_arrays(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Every array of the model by its name; views of ``data``.

    Raises:
        ValueError: another version, or an unknown type.
    """
    reader = _Reader(data)
    if (version := reader.number("I")) != _VERSION:
        raise ValueError(f"data: expected a model file of version {_VERSION}, got {version}")
    reader.text()  # the kind of model
    reader.number("I")  # and its revision
    arrays: dict[str, NDArray[np.generic]] = {}
    for _ in range(reader.number("I")):
        name, array = reader.text(), reader.array()
        arrays[name] = array
    for _ in range(reader.number("I")):
        alias, name = reader.text(), reader.text()
        arrays[alias] = arrays[name]
    return arrays


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(f"<{code}")
        return int(value)

    def text(self) -> str:
        length = self.number("H")
        value = self._data[self._at : self._at + length - 1].decode()
        self._at += length
        return value

    def array(self) -> NDArray[np.generic]:
        shape = [self.number("I") for _ in range(self.number("B"))]
        code, size = self.number("B"), self.number("I")
        if code >= len(_TYPES):
            raise ValueError(f"data: an array of unknown type {code}")
        dtype = np.dtype(_TYPES[code])
        found = np.frombuffer(self._data, dtype, size // dtype.itemsize, self._at).reshape(shape)
        self._at += size
        return found
