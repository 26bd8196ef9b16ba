"""Reading a part of a Hugging Face folder into a model, for a process that holds and runs that part alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekern.checkpoint.errors import CheckpointMismatchError
from edgekern.checkpoint.part import Keep, check_meta
from edgekern.checkpoint.ranges import TensorFile
from edgekern.config import Config
from edgekern.loading.arrivals import Arrivals
from edgekern.loading.shards import open_shards
from edgekern.nn.swap import return_freed_memory

Change = Callable[[str, nn.Module], nn.Module]
_MADE_UP = "rotary_emb.inv_freq"
"""What old folders hold of it is not read: models make it from their configuration."""


def load_part_of_folder(
    model: nn.Module,
    folder: str | os.PathLike[str],
    keep: Keep,
    config: Config | None = None,
    *,
    change: Change | None = None,
) -> None:
    """Fills a part of a model on the meta device from what ``save_pretrained`` wrote; the rest stays as it is.

    Names and shapes are compared with the whole model first, so a folder of another model is refused whatever part is
    asked for. Tensors of the part are read layer by layer, without mapping files: the peak is what the part takes, and
    a layer as floats. Values are cast to the dtype of the model. Buffers that no file holds are those of a module made
    anew from its ``config``, as for positions.

    Args:
        model: built on the meta device.
        folder: with ``model.safetensors``, or several files and their index.
        keep: whether a parameter or a buffer of a name belongs to the part.
        config: what to convert the part to, each layer as soon as it is read; None leaves floats.
        change: what to put in place of a layer that was read, and converted if it was to be, given its name and it.

    Raises:
        TypeError: ``model`` is not a module, or ``config`` none for ``convert_``.
        CheckpointError: files that are not there or damaged; CheckpointMismatchError also where the part is not on the
            meta device; CheckpointUnsupportedError where the model was saved converted.
        ConvertError: as ``Arrivals`` raises it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    files = open_shards(Path(folder))
    slots = _slots(model)
    _compare(slots, files)
    wanted = [slot for slot in slots if any(map(keep, slot.names))]
    hidden = [name for name in _hidden(model) if keep(name)]
    check_meta(model, [name for slot in wanted for name in slot.names])
    _make_hidden(model, hidden)
    arrivals = None if config is None else Arrivals(model, config, keep=keep)
    by_owner: dict[str, list[_Slot]] = {}
    for slot in wanted:
        by_owner.setdefault(slot.names[0].rpartition(".")[0], []).append(slot)
    for owner, own in by_owner.items():
        for slot in own:
            _read(model, slot, files, arrivals)
        if change is not None and owner:
            _put(model, owner, change(owner, model.get_submodule(owner)))
    if arrivals is not None:
        arrivals.complete()
    return_freed_memory()


@dataclass(frozen=True)
class _Slot:
    """A parameter or buffer, which a model may hold under several names, of which files hold one or more."""

    names: tuple[str, ...]
    like: Tensor

    def stored(self, files: dict[str, TensorFile]) -> str | None:
        """The name that it is stored by."""
        return next((name for name in self.names if name in files), None)


def _slots(model: nn.Module) -> list[_Slot]:
    """All that the files should hold."""
    hidden = set(_hidden(model))
    names: dict[int, list[str]] = {}
    likes: dict[int, Tensor] = {}
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        if name not in hidden:
            names.setdefault(id(tensor), []).append(name)
            likes[id(tensor)] = tensor
    return [_Slot(tuple(found), likes[key]) for key, found in names.items()]


def _hidden(model: nn.Module) -> list[str]:
    """Buffers that no file holds."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules(remove_duplicate=False)
        for name in module._buffers
        if name in module._non_persistent_buffers_set
    ]


def _compare(slots: list[_Slot], files: dict[str, TensorFile]) -> None:
    """Raises CheckpointMismatchError unless the files hold what the model has room for."""
    known = {name for slot in slots for name in slot.names}
    problems = [f"{name!r} is unknown to the model" for name in files if name not in known and _MADE_UP not in name]
    for slot in slots:
        name = slot.stored(files)
        if name is None:
            problems.append(f"{' or '.join(map(repr, slot.names))} is missing from the checkpoint")
            continue
        like = files[name].like(name)
        if like.shape != slot.like.shape or like.is_floating_point() != slot.like.is_floating_point():
            problems.append(
                f"{name!r} is {_kind(slot.like)} in the model, {_kind(like)} in the checkpoint; they are not of one "
                "architecture"
            )
    if problems:
        shown = sorted(problems)[:10]
        more = [f"and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
        raise CheckpointMismatchError("\n  ".join(["the checkpoint does not fit the model:", *shown, *more]))


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _make_hidden(model: nn.Module, names: list[str]) -> None:
    """Values for buffers that a module makes from its configuration."""
    for owner in dict.fromkeys(name.rpartition(".")[0] for name in names):
        module = model.get_submodule(owner)
        if not any(buffer is not None and buffer.is_meta for buffer in module._buffers.values()):
            continue
        if not hasattr(module, "config"):
            raise CheckpointMismatchError(
                f"{owner!r} has buffers without values (meta device) that no file holds, and no config to make them by"
            )
        with torch.device("cpu"):
            module._buffers.update(type(module)(module.config)._buffers)


def _read(model: nn.Module, slot: _Slot, files: dict[str, TensorFile], arrivals: Arrivals | None) -> None:
    stored = slot.stored(files)
    assert stored is not None  # it was looked for
    tensor = files[stored].read(stored).to(slot.like.dtype)
    taken = None if arrivals is None else next((name for name in slot.names if name in arrivals), None)
    if arrivals is not None and taken is not None:
        arrivals.take(taken, tensor)
        return
    value = nn.Parameter(tensor, slot.like.requires_grad) if isinstance(slot.like, nn.Parameter) else tensor
    for name in slot.names:
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(value, nn.Parameter):
            module._parameters[attribute] = value
        else:
            module._buffers[attribute] = value


def _put(model: nn.Module, name: str, made: nn.Module) -> None:
    owner, _, attribute = name.rpartition(".")
    model.get_submodule(owner)._modules[attribute] = made
