"""The folder of a run: where its files are, whether they are what was written, and making it ready.

OUT/run.json             what has ended, written after each stage: ``record.py``
OUT/recipe.toml          the recipe with all its defaults
OUT/stages/01-before/    a folder for each stage: inputs.json, model.safetensors, edgekern.json, metrics.jsonl ...
OUT/model/               the finished model
OUT/.lock                held by the process that works in the folder: ``lock.py``
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from edgekern.checkpoint.manifest import TENSORS_FILE
from edgekern.checkpoint.records import MANIFEST_FILE
from edgekern.checkpoint.write import sha256_of
from edgekern.compress.errors import CompressError
from edgekern.compress.inputs import WAY_OUT
from edgekern.compress.lock import FILE as LOCK
from edgekern.compress.record import FILE, StageRecord

RECIPE, STAGES, MODEL = "recipe.toml", "stages", "model"
MODEL_FILES = (TENSORS_FILE, MANIFEST_FILE)


def stage_folder(root: Path, number: int, name: str) -> Path:
    """Of a stage, which are counted from 1."""
    return root / STAGES / f"{number:02}-{name}"


def make_folder(root: Path) -> None:
    """Makes the folder, or sees to it that a run is in it.

    Raises:
        CompressError: there is something else in it.
        OSError: it cannot be made.
    """
    if root.exists() and not root.is_dir():
        raise CompressError(f"OUT: {root} is a file; expected a folder, or a name for a new one")
    root.mkdir(parents=True, exist_ok=True)
    left = [path for path in root.iterdir() if not _is_passing(path.name)]
    if left and not (root / FILE).is_file():
        raise CompressError(f"OUT: {root} holds {left[0].name}, and no {FILE} of a run; give another name")


def _is_passing(name: str) -> bool:
    """Whether a file says nothing of what a folder holds: the lock, or what a killed process has half written."""
    return name == LOCK or (name.startswith(".") and name.endswith(".part"))


def clear(root: Path, restart: bool) -> None:
    """Removes what killed processes have left in the folder, and with ``restart`` all that a run has written."""
    if restart:
        for name in (STAGES, MODEL):
            shutil.rmtree(root / name, ignore_errors=True)
        for name in (RECIPE, FILE):  # the record last: it says that all of this is a run's
            (root / name).unlink(missing_ok=True)
    for path in root.glob(f".{MODEL}.*"):
        shutil.rmtree(path, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Removes what killed processes have left half written in a stage's folder."""
    for path in folder.glob(".*.part"):
        path.unlink()


def hashes(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file that is there, by its path from ``root``."""
    return {path.relative_to(root).as_posix(): sha256_of(path) for path in files if path.exists()}


def check_outputs(root: Path, stage: StageRecord) -> None:
    """CompressError unless a stage's files are those that it wrote."""
    for path, expected in stage.outputs.items():
        if not (root / path).is_file():
            raise CompressError(f"stage {stage.name!r}: {root / path} is gone; put it back, or {WAY_OUT}")
        if sha256_of(root / path) != expected:
            raise CompressError(
                f"stage {stage.name!r}: {root / path} has changed since it was written (SHA-256 differs); put it back, "
                f"or {WAY_OUT}"
            )
