"""Pruning, as the planner asks about it: which layers can be pruned, and which should be."""

from __future__ import annotations

from torch import nn

from edgekern.config import Prune, Scheme, parse_pattern
from edgekern.nn.layers import Layer, obstacle_in_code, obstacle_in_tensors
from edgekern.prune.patterns import pattern_of
from edgekern.targets import Verdict, judge


class PruneError(ValueError):
    """A model cannot be pruned as asked. It is as it was before the call."""


class Pruning:
    """The task of ``prune_``."""

    verb = "prune"
    done = "pruned"
    layers = "linear or 2-d convolution layers"
    tables = False
    error: type[ValueError] = PruneError

    def is_for(self, module: nn.Module) -> bool:
        return True

    def obstacle(self, layer: Layer, scheme: Scheme) -> str:
        assert isinstance(scheme, Prune)
        if layer.native:
            return f"{layer.native.format} already; prune before converting"
        return obstacle_in_code(layer) or obstacle_in_tensors(layer.linear) or _obstacle_in_weight(layer, scheme)

    def objection(self, layer: Layer, ties: dict[nn.Module, str], scheme: Scheme) -> str:
        way_out = f"a rule for it prunes it: PerLayer({{{layer.name!r}: {scheme!r}, '_default': {scheme!r}}})"
        if layer.module in ties:
            return f"its weight is also {ties[layer.module]!r}, which would lose the same values; {way_out}"
        if any(name.rpartition(".")[2] == "lm_head" for name in layer.names):
            return f"the output head, whose errors go straight to the logits; {way_out}"
        return ""

    def is_done(self, layer: Layer) -> bool:
        return False


def _obstacle_in_weight(layer: Layer, scheme: Prune) -> str:
    weight = layer.linear.weight
    if weight.ndim != (4 if layer.kind == "Conv2d" else 2) or not weight.numel():
        return f"its weight of shape {list(weight.shape)} is empty or of an unexpected rank"
    if weight.is_inference():
        return "its weight was made under torch.inference_mode and cannot be changed in place; clone it"
    rows, (kind, height, _) = weight.shape[0], parse_pattern(scheme.pattern)
    if scheme.method == "sparsegpt" and isinstance(layer.module, nn.Conv2d) and kind == "RxC":
        group = rows // layer.module.groups
        if layer.module.groups > 1 and group % height:
            return f"SparseGPT solves its groups of {group} rows alone, and blocks of {height} rows would straddle them"
    return pattern_of(scheme.pattern).misfit(rows, weight[0].numel()) or _obstacle_in_target(layer, scheme)


def _obstacle_in_target(layer: Layer, scheme: Prune) -> str:
    verdict = target_verdict(scheme)
    if verdict is None:
        return ""
    if layer.kind != "Linear":
        return f"what a {layer.kind} gains on {scheme.target} depends on the size of images; convert_ measures it"
    return verdict.reason


def target_verdict(scheme: Scheme | None) -> Verdict | None:
    """What the scheme's target makes of a linear layer pruned by it; None when it has no target."""
    if not isinstance(scheme, Prune) or scheme.target is None:
        return None
    # Where scopes vary the share, a layer may end at the floor.
    share = scheme.share if scheme.scope == "local" else scheme.min_sparsity
    return judge(scheme.target, parse_pattern(scheme.pattern), share)
