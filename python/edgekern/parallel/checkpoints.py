"""What a rank reads its own layers from: what ``edgekern.save`` wrote, or a Hugging Face folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import nn

from edgekern.checkpoint.part import Keep, load_part
from edgekern.checkpoint.read import read_manifest
from edgekern.checkpoint.records import MANIFEST_FILE
from edgekern.config import Config, check_config
from edgekern.loading import checksum_of_folder, load_part_of_folder

Folder = str | os.PathLike[str]


def check_scheme(checkpoint: Folder | None, scheme: Config | None) -> None:
    """TypeError or ValueError for a scheme that is none, or that there is nothing to convert by."""
    if scheme is None:
        return
    check_config(scheme)
    if checkpoint is None:
        raise ValueError("scheme: it is for what is read from checkpoint=; convert_(model, scheme) converts a model")
    if _is_saved(checkpoint):
        raise ValueError(
            f"scheme: {checkpoint} was written by edgekern.save, and its layers stay as they were saved; leave it out, "
            "or give a Hugging Face folder"
        )


def load_own(
    model: nn.Module,
    checkpoint: Folder,
    keep: Keep,
    scheme: Config | None,
    *,
    change: Callable[[str, nn.Module], nn.Module] | None = None,
    verify: bool = True,
) -> None:
    """Fills a rank's part of a model on the meta device, layer by layer.

    Args:
        model, keep, change: as for ``load_part_of_folder``; of what ``edgekern.save`` wrote, native layers are changed.
        checkpoint: the folder.
        scheme: what to convert the part of a Hugging Face folder to.
        verify: compare the checksum that ``edgekern.save`` has noted.

    Raises:
        CheckpointError, ConvertError: as the loaders raise them.
    """
    if _is_saved(checkpoint):
        load_part(model, checkpoint, keep, change=cast(Any, change), verify=verify)
    else:
        load_part_of_folder(model, checkpoint, keep, scheme, change=change)


def checksum_of(checkpoint: Folder) -> str:
    """Equal where checkpoints are. What ``edgekern.save`` has noted is taken at its word: loading has compared it."""
    return read_manifest(Path(checkpoint)).sha256 if _is_saved(checkpoint) else checksum_of_folder(checkpoint)


def _is_saved(checkpoint: Folder) -> bool:
    return (Path(checkpoint) / MANIFEST_FILE).is_file()
