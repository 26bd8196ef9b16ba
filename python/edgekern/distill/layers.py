"""Stacks of blocks in a model, and which block of a student learns from which of its teacher."""

from __future__ import annotations

from torch import nn

from edgekern.distill.errors import DistillError


def block_stacks(model: nn.Module) -> dict[str, nn.ModuleList | nn.Sequential]:
    """Containers of two blocks or more that are alike, outermost ones, by name.

    Alike means: of one class, with parameters of the same names and shapes, so that any of them can be left out.
    """
    found: dict[str, nn.ModuleList | nn.Sequential] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or len(module) < 2:
            continue
        if any(not outer or name.startswith(f"{outer}.") for outer in found):
            continue
        kinds = {(type(block), _shapes(block)) for block in module}
        if len(kinds) == 1 and next(iter(kinds))[1]:
            found[name] = module
    return found


def map_layers(student: nn.Module, teacher: nn.Module) -> dict[str, str]:
    """For each block of the student the block of the teacher at the same depth, by names: 3 of 6 are 2, 4 and 6.

    Raises:
        DistillError: the models do not have the same stacks, or the student's are longer.
    """
    shallow, deep = block_stacks(student), block_stacks(teacher)
    if not shallow or shallow.keys() != deep.keys():
        raise DistillError(
            f"the student has stacks of blocks {sorted(shallow)}, the teacher {sorted(deep)}; say which layers go "
            "together: Hidden({'student.layer': 'teacher.layer'})"
        )
    found = {}
    for name, stack in shallow.items():
        few, many = len(stack), len(deep[name])
        if few > many:
            raise DistillError(f"{name!r} has {few} blocks in the student, and {many} in the teacher")
        prefix = f"{name}." if name else ""
        for i in range(few):
            found[f"{prefix}{i}"] = f"{prefix}{(i + 1) * many // few - 1}"
    return found


def _shapes(block: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(parameter.shape)) for name, parameter in block.named_parameters())
