"""What can be wrong with a checkpoint."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read. The model and the files are as they were before the call."""


class CheckpointExistsError(CheckpointError):
    """Saving would overwrite files, and was not told to."""


class CheckpointNotFoundError(CheckpointError):
    """The directory or one of its files does not exist."""


class CheckpointFormatError(CheckpointError):
    """``edgekern.json`` is not the description of a checkpoint."""


class CheckpointVersionError(CheckpointError):
    """The checkpoint was written in a version of the format that this edgekern does not read."""


class CheckpointCorruptError(CheckpointError):
    """``model.safetensors`` is not what ``edgekern.json`` describes: truncated, changed, or values that cannot be."""


class CheckpointMismatchError(CheckpointError):
    """The checkpoint is sound, but belongs to another model than the one given."""


class CheckpointUnsupportedError(CheckpointError):
    """The checkpoint is sound, but holds what no kernel here multiplies; the message says what, and the way out."""
