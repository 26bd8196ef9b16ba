"""The log of a training: a JSON object a line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Log:
    """Appends lines to a file; a training that is resumed takes back what was written after its checkpoint.

    Args:
        path: the file; None writes nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file = None if path is None else path.open("ab")

    def write(self, **facts: Any) -> None:
        """Writes a line."""
        if self._file is not None:
            self._file.write(json.dumps(facts).encode() + b"\n")
            self._file.flush()

    def saved(self) -> int:
        """Bytes that are now safely on the disk."""
        if self._file is None:
            return 0
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def back_to(self, size: int) -> None:
        """Takes back all that comes after so many bytes."""
        if self._path is not None and self._file is not None:
            self._file.truncate(min(size, self._path.stat().st_size))
            self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """No more lines."""
        if self._file is not None:
            self._file.close()
