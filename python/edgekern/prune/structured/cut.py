"""Taking units out of a model, such that everything can be put back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.nn.swap import uninterrupted
from edgekern.prune.structured.attention import NarrowAttention
from edgekern.prune.structured.groups import Group, Owners, Span


@dataclass(frozen=True)
class Cut:
    """A group, and which of its units stay: bool [size]."""

    group: Group
    kept: Tensor


class Journal:
    """Changes a model, and puts back what it changed."""

    def __init__(self, model: nn.Module, owners: Owners) -> None:
        self._model, self._owners = model, owners
        self._undo: list[tuple[Any, str, Any]] = []

    @contextmanager
    def trying(self) -> Iterator[None]:
        """All that changes inside is put back at the end."""
        start = len(self._undo)
        try:
            yield
        finally:
            self._roll_back(start)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """All that changes inside is put back if the block ends by an exception."""
        try:
            yield
        except BaseException:
            self._roll_back(0)
            raise

    def take_out(self, cuts: Iterable[Cut]) -> None:
        """Makes tensors smaller, and mends what modules say about their sizes."""
        cuts = list(cuts)
        touched: dict[nn.Module, None] = {}
        for tensor, kept in _kept(cuts, all_spans=True):
            new = tensor.detach()
            for dim, mask in kept.items():
                new = new.index_select(dim, mask.nonzero().view(-1).to(new.device))
            self._exchange(tensor, new)
            touched.update(dict.fromkeys(module for module, _, _ in self._owners[id(tensor)]))
        for cut in cuts:
            if cut.group.kind == "heads":
                self._mend_heads(cut)
        for module in touched:
            self._mend(module)

    def silence(self, cuts: Iterable[Cut]) -> None:
        """Leaves all sizes, and makes those who read the units read zeros: what ``take_out`` should come to."""
        for tensor, kept in _kept(list(cuts), all_spans=False):
            new = tensor.detach().clone()
            for dim, mask in kept.items():
                new.index_fill_(dim, (~mask).nonzero().view(-1).to(new.device), 0)
            self._exchange(tensor, new)

    def exchange_config(self, old: object, new: object) -> None:
        """Hands all modules with one Hugging Face config another one."""
        for module in self._model.modules():
            if vars(module).get("config") is old:
                self._set(module, "config", new)

    def _exchange(self, tensor: Tensor, new: Tensor) -> None:
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, tensor.requires_grad)
        with uninterrupted():
            for module, _, name in self._owners[id(tensor)]:
                held = module._parameters if name in module._parameters else module._buffers
                self._undo.append((held, name, held[name]))
                held[name] = new  # type: ignore[assignment]

    def _set(self, module: nn.Module, name: str, value: object) -> None:
        if getattr(module, name) != value:
            with uninterrupted():
                self._undo.append((module, name, getattr(module, name)))
                object.__setattr__(module, name, value)

    def _roll_back(self, start: int) -> None:
        with uninterrupted():
            while len(self._undo) > start:
                target, name, value = self._undo.pop()
                if isinstance(target, dict):
                    target[name] = value
                else:
                    object.__setattr__(target, name, value)

    def _mend(self, module: nn.Module) -> None:
        for name, value in _sizes(module).items():
            self._set(module, name, value)
        if isinstance(module, nn.MultiheadAttention):
            self._set(module, "__class__", NarrowAttention)
            # Keeps nn.TransformerEncoderLayer from its fused path, which has no room for fewer heads either.
            self._set(module, "_qkv_same_embed_dim", False)

    def _mend_heads(self, cut: Cut) -> None:
        """Counts of heads and their widths in the modules that hold the projections, or hold the weights themselves."""
        names = [*cut.group.layers, *(name.rpartition(".")[0] for name in cut.group.layers)]
        for name in dict.fromkeys(names):
            module = self._model.get_submodule(name)
            for attribute in HEAD_ATTRIBUTES & vars(module).keys():
                count = vars(module)[attribute]
                if isinstance(count, int) and count % len(cut.kept) == 0:
                    self._set(module, attribute, count // len(cut.kept) * int(cut.kept.sum()))


HEAD_ATTRIBUTES = frozenset(
    """
    num_heads num_attention_heads n_heads n_head nhead heads num_key_value_heads num_kv_heads n_kv_heads
    all_head_size inner_dim split_size
    """.split()
)
"""What modules call their numbers of heads, and the width of all of them; each is in proportion to the heads left."""


def _kept(cuts: list[Cut], all_spans: bool) -> list[tuple[Tensor, dict[int, Tensor]]]:
    """For each tensor that loses something: by dimension, which of its entries stay."""
    tensors: dict[int, Tensor] = {}
    masks: dict[int, dict[int, Tensor]] = defaultdict(dict)
    for cut in cuts:
        for span in cut.group.spans if all_spans else cut.group.consumers:
            tensor, dim = span.axis.tensor, span.axis.dim
            tensors[id(tensor)] = tensor
            stays = staying(span, cut.kept)
            masks[id(tensor)][dim] = masks[id(tensor)].get(dim, stays) & stays
    return [(tensor, masks[key]) for key, tensor in tensors.items()]


def staying(span: Span, kept: Tensor) -> Tensor:
    """Which entries of the dimension stay: those of units that are kept, and of others."""
    return torch.where(span.unit >= 0, kept[span.unit.clamp_min(0)], True)


def _sizes(module: nn.Module) -> dict[str, object]:
    """What a module of PyTorch's should say about itself, by its tensors."""
    found: dict[str, object] = {}
    weight = module._parameters.get("weight")
    if type(module).__name__ == "Conv1D" and weight is not None:  # GPT-2's linear layer, with its weight transposed
        found = {"nx": weight.shape[0], "nf": weight.shape[1]}
    elif isinstance(module, nn.Linear) and weight is not None:
        found = {"out_features": weight.shape[0], "in_features": weight.shape[1]}
    elif isinstance(module, nn.modules.conv._ConvNd) and weight is not None:
        groups = 1 if module.groups == 1 else weight.shape[0] // (module.out_channels // module.groups)
        found = {"out_channels": weight.shape[0], "in_channels": groups * weight.shape[1], "groups": groups}
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        known = weight if weight is not None else module.running_mean
        found = {} if known is None else {"num_features": known.shape[0]}
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and weight is not None:
        found = {"normalized_shape": tuple(weight.shape)}
    elif isinstance(module, nn.Embedding) and weight is not None:
        found = {"embedding_dim": weight.shape[1]}
    elif isinstance(module, nn.PReLU) and weight is not None:
        found = {"num_parameters": weight.numel()}
    elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        width = module.in_proj_weight.shape[1]
        found = {"embed_dim": width, "kdim": width, "vdim": width}
    return found
