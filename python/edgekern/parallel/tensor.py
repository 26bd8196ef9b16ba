"""Models divided within layers: each rank holds some features of every layer, and ranks add up what they have."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekern.config import Config
from edgekern.fuse import fuse_blocks_
from edgekern.match import match
from edgekern.nn import NativeLinear
from edgekern.nn.swap import return_freed_memory
from edgekern.parallel.causal import KINDS
from edgekern.parallel.checkpoints import check_scheme, checksum_of, load_own
from edgekern.parallel.group import Group
from edgekern.parallel.reduce import highest_over, sum_over
from edgekern.parallel.slices import grain_of, needs_range, some_inputs, some_outputs

COLUMN, ROW = "column", "row"


class RowParallel(nn.Module):
    """A linear layer of which this rank holds some input features; the result is the whole layer's, on every rank.

    Input: the rank's own features ``[..., K / ranks]``. Output: ``[..., N]``.
    """

    bias: Tensor | None

    def __init__(self, layer: nn.Module, bias: Tensor | None, group: Group, *, compress: bool) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("bias", bias)
        self._group, self._compress, self._needs_range = group, compress, needs_range(layer)

    def forward(self, input: Tensor) -> Tensor:
        """``[..., K / ranks]`` to ``[..., N]``."""
        if self._needs_range:
            low, high = torch.aminmax(input, dim=-1, keepdim=True)
            ends = highest_over(self._group, torch.cat([high, -low], -1).float()).to(input.dtype)
            input = torch.cat([input, ends[..., :1], -ends[..., 1:]], -1)
        total = sum_over(self._group, self.layer(input), compress=self._compress)
        return total if self.bias is None else total + self.bias


def tensor_parallel_(
    model: nn.Module,
    group: Group,
    *,
    rules: Mapping[str, str] | None = None,
    compress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    scheme: Config | None = None,
) -> list[str]:
    """Leaves this rank its part of each linear layer, in place. All ranks then call the model with the same inputs.

    A layer divided by "column" gives some of its output features. One divided by "row" is given those, and its results
    are added up over the ranks. Weights are the integers of the undivided model, and activations are rounded by its
    scales. Float sums differ in their last bits, and where activations are int8 these now and then decide an integer.

    Args:
        model: converted or not, or both; on the meta device with ``checkpoint``.
        group: the ranks.
        rules: "column" or "row" by layer name, or "re:" and a pattern for the whole name. None, for language models
            of the Llama family: attention by heads, and the inner features of each MLP. Embedding, norms and head stay
            whole.
        compress: send partial results as int8, with a scale for each 32 values.
        checkpoint: a folder that ``edgekern.save`` wrote, or a Hugging Face folder. Each layer is read, and all but the
            rank's part is let go before the next one is: no rank holds more than its part and a layer.
        scheme: what to convert layers of a Hugging Face folder to, as ``convert_`` would, before they are divided.

    Returns:
        Names of the layers that were divided.

    Raises:
        TypeError, ValueError: no model, rules that match nothing, more ranks than heads, or a layer that cannot be
            divided; the model may be divided in part.
        RankMismatchError: other checkpoints or schemes on other ranks; RankFailedError: another rank cannot load.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    with group.together("dividing the layers"):
        check_scheme(checkpoint, scheme)
        spans = _spans(model, group, rules)
    group.agree("how layers are divided", "; ".join(f"{name} {how}" for name, (how, _, _) in spans.items()))

    def part(name: str, layer: nn.Module) -> nn.Module:
        if name not in spans:
            return layer
        how, start, stop = spans[name]
        if how == COLUMN:
            return some_outputs(layer, start, stop)
        if isinstance(layer, NativeLinear) and layer.activation != "none":
            raise ValueError(f"{name!r} applies {layer.activation} to its result, and its parts are no whole results")
        bias = cast("Tensor | None", layer.bias)
        return RowParallel(
            some_inputs(layer, start, stop), None if bias is None else bias.detach(), group, compress=compress
        )

    if checkpoint is not None:
        group.agree("the scheme", repr(scheme))
        with group.together("loading its part of the model"):
            load_own(model, checkpoint, lambda name: True, scheme, change=part)
            checksum = checksum_of(checkpoint)
        group.agree("the checkpoint", checksum)
    with group.together("dividing the layers"):
        for name in spans:
            layer = model.get_submodule(name)
            if isinstance(layer, nn.Linear | NativeLinear) and not _is_part(layer, spans[name]):
                owner, _, attribute = name.rpartition(".")
                model.get_submodule(owner)._modules[attribute] = part(name, layer)
        return_freed_memory()
        fuse_blocks_(model)
    return list(spans)


@torch.inference_mode()
def generate(model: nn.Module, ids: Tensor, tokens: int, group: Group, *, eos: int | None = None) -> Tensor:
    """Prompts, and what a divided language model writes after them: at each step the likeliest token.

    All ranks call it with the same ids. Which token it is, rank 0 says: boards of different kinds may round otherwise.

    Args:
        model: what :func:`tensor_parallel_` has divided.
        ids: int64 [B, T].
        tokens: to write, 1 or more; fewer when all rows end earlier.
        group: the ranks.
        eos: the token that ends a row.

    Returns:
        int64 [B, T + written], the same on all ranks.

    Raises:
        ValueError: no tokens asked for.
        RankLostError, RankFailedError: another rank is gone.
    """
    if tokens < 1 or ids.ndim != 2 or not ids.numel():
        raise ValueError(f"ids [B, T] and tokens >= 1 are expected, got {list(ids.shape)} and {tokens}")
    written, cache = [group.broadcast(ids.clone())], None
    ended = torch.zeros(len(ids), dtype=torch.bool)
    x = written[0]
    for _ in range(tokens):
        output = cast(Any, model)(input_ids=x, past_key_values=cache, use_cache=True, logits_to_keep=1)
        x, cache = group.broadcast(output.logits[:, -1:].argmax(-1)), output.past_key_values
        if eos is not None:
            x = x.masked_fill(ended[:, None], eos)
            ended |= x[:, 0] == eos
        written.append(x)
        if bool(ended.all()):
            break
    return torch.cat(written, 1)


# ------------------------------------------------------------------------------------------ what is divided where

_Span = tuple[str, int, int]


def _spans(model: nn.Module, group: Group, rules: Mapping[str, str] | None) -> dict[str, _Span]:
    """By layer: how it is divided, and the features of this rank."""
    if rules is not None:
        return _spans_by_rules(model, group, rules)
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in KINDS:
        raise ValueError(f"rules: expected for models that are not of type {', '.join(KINDS)}; got {rules!r}")
    heads, pairs = int(config.num_attention_heads), int(config.num_key_value_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    if pairs < group.size:
        raise ValueError(f"group: {group.size} ranks, and the model has {pairs} heads of keys; start as many at most")
    first, last = _share(pairs, 1, group)
    spans: dict[str, _Span] = {}
    for name, module in model.named_modules():
        leaf = name.rpartition(".")[2]
        if leaf in ("k_proj", "v_proj"):
            spans[name] = (COLUMN, first * width, last * width)
        elif leaf in ("q_proj", "o_proj"):
            each = heads // pairs * width
            spans[name] = (COLUMN if leaf == "q_proj" else ROW, first * each, last * each)
        elif leaf == "down_proj":
            inner = cast(Any, module).in_features
            start, stop = _share(inner, _grain(inner, group, grain_of(module)), group)
            owner = name.rpartition(".")[0]
            spans.update({f"{owner}.{gate}": (COLUMN, start, stop) for gate in ("gate_proj", "up_proj")})
            spans[name] = (ROW, start, stop)
    return spans


def _spans_by_rules(model: nn.Module, group: Group, rules: Mapping[str, str]) -> dict[str, _Span]:
    if wrong := [how for how in rules.values() if how not in (COLUMN, ROW)]:
        raise ValueError(f"rules: expected {COLUMN!r} or {ROW!r}, got {wrong[0]!r}")
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | NativeLinear)}
    spans: dict[str, _Span] = {}
    for name, found in match(rules, list(layers)).items():
        layer, how = cast(nn.Linear, layers[name]), found.value
        features = layer.out_features if how == COLUMN else layer.in_features
        spans[name] = (how, *_share(features, _grain(features, group, 1), group))
    return spans


def _grain(features: int, group: Group, least: int) -> int:
    """Features that stay together: as many as there are in an int4 group, where there are enough of them."""
    for grain in (128, 64, 32, 16, 8, 4, 2):
        if features % grain == 0 and features // grain >= group.size and grain % least == 0:
            return grain
    return least


def _share(features: int, grain: int, group: Group) -> tuple[int, int]:
    """This rank's features, out of as many for each as can be."""
    pieces = -(-features // grain)
    if pieces < group.size:
        raise ValueError(f"group: {features} features in pieces of {grain} are too few for {group.size} ranks")
    ends = [min(features, grain * (pieces * rank // group.size)) for rank in range(group.size + 1)]
    return ends[group.rank], ends[group.rank + 1]


def _is_part(layer: nn.Linear | NativeLinear, span: _Span) -> bool:
    """Whether it was divided when it was read."""
    how, start, stop = span
    return how == COLUMN and layer.out_features == stop - start
