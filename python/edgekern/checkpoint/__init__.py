"""Models on disk: canonical tensors in a safetensors file, and a description beside it."""

from __future__ import annotations

from edgekern.checkpoint.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointExistsError,
    CheckpointFormatError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointUnsupportedError,
    CheckpointVersionError,
)
from edgekern.checkpoint.read import load, stored_shapes
from edgekern.checkpoint.write import save

__all__ = [
    "CheckpointCorruptError",
    "CheckpointError",
    "CheckpointExistsError",
    "CheckpointFormatError",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "CheckpointUnsupportedError",
    "CheckpointVersionError",
    "load",
    "save",
    "stored_shapes",
]
