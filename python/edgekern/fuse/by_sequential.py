"""Calls that can be told without tracing: children of an ``nn.Sequential`` follow each other."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from edgekern.fuse.calls import BY_SEQUENTIAL, Call, Calls
from edgekern.fuse.parts import Parts


def calls_by_sequential(model: nn.Module, parts: Parts, within: set[nn.Module], why: str) -> Calls:
    """The calls of the parts among the modules ``within`` that could not be traced, and why not.

    A child of an ``nn.Sequential`` that runs as PyTorch's own is taken to be called by that alone. Parts that stand
    elsewhere too, or only there, get an obstacle.
    """
    calls = Calls()
    followed: dict[nn.Module, set[str]] = {}
    for name, chain in _chains(model, within):
        made = [Call(module, path, BY_SEQUENTIAL) for path, module in chain]
        last: list[Call | str] = [f"what follows {name!r}" if name else "the model's result"]
        for call, reader in zip(made, made[1:] + last, strict=True):
            call.readers.append(reader)
            calls.add(call)
            followed.setdefault(call.module, set()).add(call.name)
    for module, names in parts.names.items():
        elsewhere = set(names) - followed.get(module, set())
        if module in within and elsewhere:
            calls.obstacles[module] = f"{why}; and as {min(elsewhere)!r} it is in no nn.Sequential"
    return calls


def _chains(model: nn.Module, within: set[nn.Module]) -> Iterator[tuple[str, list[tuple[str, nn.Module]]]]:
    """Outermost sequences: their names, and what they call one after the other, sequences in them opened up."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        outer = modules[name.rpartition(".")[0]] if name else None
        inside = outer is not None and outer in within and _runs_in_order(outer)
        if module in within and _runs_in_order(module) and not inside:
            chain = list(_opened(name, module))
            if chain:
                yield name, chain


def _opened(name: str, sequence: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for attribute, child in sequence._modules.items():  # named_children() leaves out one that stands there again
        if child is None:
            continue
        path = f"{name}.{attribute}" if name else attribute
        if _runs_in_order(child):
            yield from _opened(path, child)
        else:
            yield path, child


def _runs_in_order(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Sequential)
        and type(module).forward is nn.Sequential.forward
        and "forward" not in vars(module)
    )
