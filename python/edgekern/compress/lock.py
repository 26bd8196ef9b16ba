"""One process at a time in the folder of a run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekern.compress.errors import CompressError

FILE = ".lock"
_held: set[int] = set()


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Inside, no other process compresses into ``root``.

    The system lets go of the lock when the process ends, however it does; the file stays, and means nothing by itself.
    It is not removed: a process that has just opened it would lock a file that is not there any more.

    Raises:
        CompressError: another process does, or this one in another call.
        OSError: the file cannot be made, or the file system has no locks.
    """
    file = os.open(root / FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number = os.pread(file, 32, 0).decode(errors="replace").strip()
            raise CompressError(
                f"OUT: {root} is in use: process {number or 'unknown'} compresses into it. Wait until that has ended, "
                "end it, or give another folder"
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        _held.add(file)
        yield
    finally:
        _held.discard(file)
        os.close(file)


def _let_go_in_child() -> None:
    """A forked process, as a data loader's worker, has the lock too, and would keep it when its parent is killed."""
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
