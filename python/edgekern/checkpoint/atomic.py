"""Files that appear whole or not at all, whatever kills the process or the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to; it becomes ``path`` when the block ends well.

    Until then a file that is there stays as it was. What a killed process leaves behind is overwritten the next time.

    Raises:
        OSError: writing fails; the file is as it was.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    # The new name is safe once the folder is on the disk; Windows has no way to ask for that.
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
