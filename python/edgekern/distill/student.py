"""``student_from``: a smaller model that starts from its teacher's weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from edgekern.calibration.program import call_model, cause_of
from edgekern.config import Shrink
from edgekern.distill.errors import DistillError
from edgekern.distill.layers import block_stacks
from edgekern.plan import check_model
from edgekern.prune.structured import shrink_

Layers = int | Sequence[int]
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")


def student_from(
    teacher: nn.Module,
    layers: Layers | Mapping[str, Layers] | None = None,
    width: float | None = None,
    example_inputs: Any = None,
) -> nn.Module:
    """A copy of ``teacher`` with fewer blocks, narrower ones, or both, which starts from the weights that are left.

    Blocks are looked for in ``nn.ModuleList`` and ``nn.Sequential``: all alike, so that any can be left out, as in the
    encoders and decoders of Hugging Face and in plain stacks. Their number in a Hugging Face ``config`` becomes the new
    one. Blocks that differ, as those of a ResNet do and those of T5, are not taken apart.

    Narrower blocks are those that :func:`edgekern.shrink_` makes, by magnitude: channels and heads go, through norms
    too, and sizes in a Hugging Face ``config`` become the new ones, where they can describe what is left.

    Args:
        teacher: any module; it stays as it is.
        layers: how many blocks to keep, spread evenly from the first to the last, or which ones, by rising number. A
            mapping says so for each stack by its name; stacks that it does not name keep all.
        width: share of the channels and heads to keep, above 0 and below 1. Needs ``example_inputs``.
        example_inputs: one batch, as for ``shrink_``; the student is tried on it.

    Returns:
        The student, in the teacher's mode.

    Raises:
        TypeError: an argument of another type.
        DistillError: nothing to make smaller is asked for; a model without such stacks, or with several and one
            number for all; blocks that there are not; a width without ``example_inputs``; a student that does not run,
            or gives outputs of other shapes.
        PruneError: the width cannot be had: see ``shrink_``.
    """
    check_model(teacher, "copy", DistillError)
    if layers is None and width is None:
        raise DistillError("layers, width: expected one of them, as student_from(teacher, layers=3)")
    if width is not None and (isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < 1):
        raise DistillError(f"width: expected the share to keep, above 0 and below 1; got {width!r}")
    if width is not None and example_inputs is None:
        raise DistillError("example_inputs: narrowing follows channels through the model, and needs a batch for that")
    kept = {} if layers is None else _chosen(teacher, layers)
    student = copy.deepcopy(teacher)
    for name, numbers in kept.items():
        _keep_blocks(student, name, numbers)
    if example_inputs is not None:
        _try(student, teacher, example_inputs)
    if width is not None:
        shrink_(student, Shrink(1 - width, through_norms=True), example_inputs)
    return student


def _chosen(teacher: nn.Module, layers: object) -> dict[str, list[int]]:
    """By stack: which blocks stay."""
    stacks = block_stacks(teacher)
    known = ", ".join(f"{name!r} of {len(stack)}" for name, stack in stacks.items())
    if not stacks:
        raise DistillError(
            f"layers: {type(teacher).__name__} has no nn.ModuleList or nn.Sequential of blocks that are alike; "
            "build the student by hand, or give a width"
        )
    if isinstance(layers, Mapping):
        if unknown := sorted(layers.keys() - stacks.keys()):
            raise DistillError(f"layers: there is no stack {unknown[0]!r}; there is {known}")
        return {name: _numbers(name, given, len(stacks[name])) for name, given in layers.items()}
    if len(stacks) > 1:
        raise DistillError(f"layers: there are several stacks: {known}; say which, as {{{next(iter(stacks))!r}: 2}}")
    name, stack = next(iter(stacks.items()))
    return {name: _numbers(name, layers, len(stack))}


def _numbers(name: str, given: object, count: int) -> list[int]:
    if isinstance(given, int) and not isinstance(given, bool):
        if not 1 <= given <= count:
            raise DistillError(f"layers: {name!r} has {count} blocks; expected 1 to {count} to keep, got {given}")
        # The first and the last do what no other does: they meet the embedding and the head.
        return [0] if given == 1 else [round(i * (count - 1) / (given - 1)) for i in range(given)]
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(isinstance(i, int) for i in given):
        raise TypeError(f"layers: expected a number of blocks, or their numbers; got {given!r}")
    numbers = list(given)
    if not numbers or numbers != sorted(set(numbers)) or numbers[0] < 0 or numbers[-1] >= count:
        raise DistillError(
            f"layers: expected rising numbers of the {count} blocks of {name!r}, 0 to {count - 1}; got {numbers}"
        )
    return numbers


def _keep_blocks(student: nn.Module, name: str, numbers: list[int]) -> None:
    stack: Any = student.get_submodule(name)
    blocks: list[nn.Module] = list(stack)
    for i in reversed(range(len(blocks))):
        if i not in numbers:
            del stack[i]
    for new, old in enumerate(numbers):
        for module in blocks[old].modules():
            if getattr(module, "layer_idx", None) == old:  # where its keys and values are in a cache
                module.layer_idx = new  # type: ignore[assignment]
    for config in _configs(student):
        for depth in _DEPTHS:
            if _counts(config, depth, name) and getattr(config, depth, None) == len(blocks):
                setattr(config, depth, len(numbers))
        kinds = getattr(config, "layer_types", None)
        if isinstance(kinds, list) and len(kinds) == len(blocks):
            config.layer_types = [kinds[i] for i in numbers]


def _counts(config: Any, depth: str, stack: str) -> bool:
    """Whether an option of a Hugging Face config can be the number of blocks of this stack."""
    side = (getattr(config, "attribute_map", None) or {}).get(depth, depth).partition("_")[0]
    if side not in ("encoder", "decoder"):
        # Where both sides have an option of their own, one without a side repeats the encoder's.
        side = "encoder" if hasattr(config, "encoder_layers") and hasattr(config, "decoder_layers") else ""
    return side in stack


def _configs(model: nn.Module) -> Iterator[Any]:
    """Hugging Face's descriptions of the model and of its parts, each once."""
    found = {
        id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None
    }
    yield from found.values()


def _try(student: nn.Module, teacher: nn.Module, batch: Any) -> None:
    wanted = [tuple(out.shape) for out in call_model(teacher, batch)]
    try:
        got = [tuple(out.shape) for out in call_model(student, batch)]
    except Exception as error:
        raise DistillError(f"layers: the model does not run without these blocks: {cause_of(error)}") from error
    if got[:1] != wanted[:1]:
        raise DistillError(f"layers: without these blocks the outputs have shapes {got}, not {wanted}")
