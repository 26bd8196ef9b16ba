"""The checkpoint of a training: one file, replaced as a whole, read without running code that it may hold."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekern.checkpoint.atomic import written_whole
from edgekern.config import FitConfig
from edgekern.train.errors import TrainError

_FORMAT, _VERSION = "edgekern-fit", 1
# How often something is written down decides about no weight.
_MAY_DIFFER = ("checkpoint_every", "log_every")


def write_checkpoint(path: Path, config: FitConfig, state: Mapping[str, Any]) -> None:
    """Replaces ``path``; whatever happens meanwhile, it holds the old state or the new one.

    Raises:
        OSError: the file cannot be written.
    """
    head = {"format": _FORMAT, "version": _VERSION, "config": json.dumps(config.to_dict())}
    with written_whole(path) as part:
        torch.save({**head, **state}, part)


def read_checkpoint(path: Path, config: FitConfig) -> dict[str, Any]:
    """What ``write_checkpoint`` has written for a training of the same options.

    Raises:
        TrainError: no such file, damaged, or of other options.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise TrainError(f"checkpoint: {path} cannot be read: {cause}; move it away to begin anew") from None
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise TrainError(f"checkpoint: {path} was not written by train.fit; give another path")
    if state["version"] != _VERSION:
        raise TrainError(f"checkpoint: {path} is of version {state['version']}; this edgekern reads {_VERSION}")
    now, then = json.loads(json.dumps(config.to_dict())), json.loads(state["config"])
    apart = sorted(key for key in now.keys() | then.keys() if key not in _MAY_DIFFER and now.get(key) != then.get(key))
    if apart:
        said = "; ".join(f"{key} was {then.get(key, 'not given')}, is {now.get(key, 'not given')}" for key in apart)
        raise TrainError(f"checkpoint: {path} is of a training with other options: {said}; move it away to begin anew")
    return state


def check_fits(path: Path, what: str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """TrainError unless the tensors of two state dicts have the same names and shapes."""
    if others := sorted(saved.keys() ^ present.keys()):
        raise TrainError(f"checkpoint: {path} is of another {what}; at odds over {', '.join(others[:5])}")
    for name, tensor in present.items():
        if isinstance(tensor, Tensor) and tensor.shape != saved[name].shape:
            raise TrainError(
                f"checkpoint: {path} is of another {what}: {name!r} has shape {list(saved[name].shape)} there, "
                f"{list(tensor.shape)} here"
            )


def checked_path(path: str | os.PathLike[str] | None, name: str) -> Path | None:
    """The path, in a folder that is there.

    Raises:
        TrainError: the folder does not exist, or the path is one.
    """
    if path is None:
        return None
    found = Path(path)
    if not found.parent.is_dir() or found.is_dir():
        raise TrainError(f"{name}: expected a file's path in a folder that exists, got {found}")
    return found
