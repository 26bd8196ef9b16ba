"""Files that are mapped into memory, and the pages of them that were read."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_MADV_PAGEOUT = 21  # Linux 5.4; unlike MADV_DONTNEED it never loses what was written to a page
_OFTEN = 32 << 20  # bytes to read between two times: to ask costs a millisecond, whatever there is to give back


class MappedFiles:
    """Gives pages of checkpoint files back to the system while tensors are read from them.

    Readers map whole files, and every page read stays in the process's memory until the system wants it for something
    else. In a container, or by a limit on resident memory, that is counted against the process.

    Args:
        files: paths of the files that somebody maps; those that nobody does change nothing.
    """

    def __init__(self, files: Iterable[str | os.PathLike[str]]) -> None:
        self._files = {os.path.realpath(file) for file in files}
        self._read = 0

    def have_read(self, nbytes: int) -> None:
        """To be told of every tensor read; now and then it gives back what all of them took."""
        self._read += nbytes
        if self._read >= _OFTEN:
            self.let_go()

    def let_go(self) -> None:
        """Gives all pages back now. What is used again is read again; elsewhere than on Linux nothing happens."""
        self._read = 0
        if self._files and _MAPS.exists():
            for start, size in self._mappings():
                _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_PAGEOUT)

    def _mappings(self) -> Iterator[tuple[int, int]]:
        """Address and size of each mapping of the files."""
        for line in _MAPS.read_text(errors="surrogateescape").splitlines():
            place, *_, path = line.split(maxsplit=5)
            if path in self._files:
                start, end = (int(address, 16) for address in place.split("-"))
                yield start, end - start


_libc = ctypes.CDLL(None)
