"""Files and folders that appear whole or not at all, whatever kills the process or the machine."""

from __future__ import annotations

import os
import shutil
import tempfile
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


@contextmanager
def folder_written_whole(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Gives a new folder beside ``path`` to write into; it becomes ``path`` when the block ends well.

    ``replace`` removes a folder that is there, just before. What a killed process leaves behind is called ``.name.``
    and some letters.

    Raises:
        OSError: it cannot be made, or ``path`` is there and is not to be replaced.
    """
    made = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield made
        made.chmod(0o755)  # mkdtemp's is for its owner alone
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        made.rename(path)
    finally:
        shutil.rmtree(made, ignore_errors=True)
