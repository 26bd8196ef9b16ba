"""Models as chains of units, which stages on several ranks take over: each runs what the one before has made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.nn import NativeEmbedding, NativeLayer
from edgekern.nn.layers import tensor_identity


@dataclass(frozen=True)
class Unit:
    """What is never divided: a block, an embedding table, an output head."""

    name: str
    parts: tuple[str, ...]
    """Modules of the model that it needs, by name."""


class Stage(nn.Module):
    """Units that follow each other, made of the model's own layers."""

    def run(self, x: Tensor, cache: Any = None, **options: Any) -> tuple[Tensor, Any]:
        """What the units make of ``x``, and the cache of keys and values where there is one."""
        raise NotImplementedError


class Chain(ABC):
    """A model that is run unit by unit; it stays as it is."""

    model: nn.Module
    units: tuple[Unit, ...]

    @abstractmethod
    def stage(self, first: int, last: int) -> Stage:
        """The units from ``first`` on, before ``last``. Its layers are the model's, as they are now."""

    def keeps(self, first: int, last: int, name: str) -> bool:
        """Whether such a stage needs the layer, parameter or buffer ``name``."""
        return any(_inside(name, part) for unit in self.units[first:last] for part in unit.parts)

    def nbytes(self, first: int, last: int) -> int:
        """Bytes of what such a stage needs, packed layers as they are packed; on the meta device, as they would be."""
        return nbytes_of(self._needed(first, last))

    def largest(self, first: int, last: int) -> int:
        """Bytes of the largest layer among them, as it is."""
        return max((nbytes_of([module]) for module in self._needed(first, last)), default=0)

    def _needed(self, first: int, last: int) -> list[nn.Module]:
        return [module for name, module in self.model.named_modules() if name and self.keeps(first, last, name)]


class SequentialStage(Stage):
    """Some children of a Sequential."""

    def __init__(self, items: Iterable[nn.Module]) -> None:
        super().__init__()
        self.items = nn.Sequential(*items)

    def run(self, x: Tensor, cache: Any = None, **options: Any) -> tuple[Tensor, Any]:
        """There is no cache."""
        return self.items(x), None


class SequentialChain(Chain):
    """``nn.Sequential``: its children are the units."""

    def __init__(self, model: nn.Sequential) -> None:
        self.model = model
        self.units = tuple(Unit(name, (name,)) for name in model._modules)

    def stage(self, first: int, last: int) -> SequentialStage:
        return SequentialStage(list(self.model.children())[first:last]).eval()


def cut(model: nn.Module) -> Chain:
    """The model as a chain.

    Raises:
        TypeError: not a module.
        ValueError: neither a Sequential nor a language model of a kind that is known here.
    """
    from edgekern.parallel.causal import KINDS, CausalChain

    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, nn.Sequential):
        if not len(model):
            raise ValueError("model: an empty Sequential cannot be divided")
        return SequentialChain(model)
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind in KINDS and hasattr(model, "lm_head"):
        return CausalChain(model)
    what = type(model).__name__ if kind is None else f"{type(model).__name__} of type {kind!r}"
    raise ValueError(
        f"model: expected nn.Sequential, or a causal language model of type {', '.join(KINDS)}; got {what}; blocks "
        "that are called one after the other can be put into an nn.Sequential"
    )


def nbytes_of(modules: Iterable[nn.Module]) -> int:
    """Bytes of the modules' own tensors, each counted once."""
    seen: dict[object, int] = {}
    for module in modules:
        if isinstance(module, NativeLayer | NativeEmbedding):
            seen[id(module)] = module.packed_bytes
            continue
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                seen[tensor_identity(tensor)] = tensor.nbytes
    return sum(seen.values())


def copy_tree(module: nn.Module) -> nn.Module:
    """A copy of a module and of those that have children, with the same layers in it: weights are not copied."""
    new = module.__class__.__new__(module.__class__)
    vars(new).update(vars(module))
    vars(new)["_modules"] = {
        name: copy_tree(child) if child is not None and child._modules else child
        for name, child in module._modules.items()
    }
    return new


def _inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def check_batch(x: object, name: str, ndim: int | None, dtype: torch.dtype | None = None) -> Tensor:
    """``x`` as a tensor with rows.

    Raises:
        TypeError: no tensor, or of another dtype.
        ValueError: of another number of dimensions, or empty.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if dtype is not None and x.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {x.dtype}")
    if (x.ndim != ndim if ndim is not None else x.ndim < 1) or not x.numel():
        dimensions = "at least one dimension" if ndim is None else f"{ndim} dimensions"
        raise ValueError(f"{name}: expected {dimensions} and no size 0, got shape {list(x.shape)}")
    return x
