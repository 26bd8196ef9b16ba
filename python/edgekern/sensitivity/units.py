"""What a scan goes through: layers, or groups of them, and the schemes that each is tried with."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from edgekern.calibration.matrix import to_matrix
from edgekern.config import Config, PerLayer, Prune, Scheme, check_config
from edgekern.convert import check_convertible
from edgekern.match import DEFAULT, match
from edgekern.nn.layers import Layer, find_layers, tied_weights
from edgekern.nn.tables import shared_tables
from edgekern.plan import Conversion, FilterFn, Task, plan
from edgekern.prune.patterns import pattern_of
from edgekern.prune.task import Pruning
from edgekern.quantize.task import Quantizing

TASKS: dict[str, Task] = {"prune_": Pruning(), "convert_": Conversion(), "quantize_": Quantizing()}
"""By the function that carries a scheme out: which layers it is for."""


@dataclass(frozen=True)
class Unit:
    """Layers that are changed together, often one, and what to change them by."""

    name: str
    layers: tuple[Layer, ...]
    schemes: tuple[Scheme, ...]
    kept_bytes: int
    """Of the layers' weights: those that other modules hold too, and that stay when the layers are converted."""

    def rules(self, scheme: Scheme) -> PerLayer:
        """The configuration that changes these layers and no others."""
        return PerLayer({layer.name or DEFAULT: scheme for layer in self.layers})  # no name: it is the model

    @property
    def weights(self) -> int:
        """All of its weights, biases aside."""
        return sum(layer.linear.weight.numel() for layer in self.layers)

    @property
    def float_bytes(self) -> int:
        """Of weights and biases, as they are."""
        return sum(layer.dense_bytes for layer in self.layers)

    def steps(self, scheme: Scheme) -> int:
        """In how many equal steps the sparsity can vary; 1 for what removes nothing."""
        return sum(_steps(layer, scheme) for layer in self.layers) if isinstance(scheme, Prune) else 1


def units_of(
    model: nn.Module,
    configs: Sequence[Config],
    filter_fn: FilterFn | None,
    groups: Sequence[str],
    sparsities: Sequence[float] | None,
) -> tuple[list[Unit], dict[str, str]]:
    """What to scan, in the model's order of first layers; and the layers of which nothing is, each with the reason.

    Raises:
        TypeError: a configuration that is for none of the functions that take one layer after the other.
        ValueError: whatever ``prune_``, ``convert_`` or ``quantize_`` would refuse; a group that matches nothing or
            whose layers have different schemes; sparsities out of range.
    """
    layers = {layer.module: layer for layer in find_layers(model)}
    schemes: dict[nn.Module, list[Scheme]] = {module: [] for module in layers}
    reasons: dict[nn.Module, str] = {}
    for config in configs:
        taker = taker_of(config)
        if taker != "prune_":
            check_convertible(model)
        for decision in plan(model, config, filter_fn, TASKS[taker]):
            if decision.layer.is_table:  # it goes with the output head that it is tied to
                continue
            if decision.scheme is None:
                reasons.setdefault(decision.layer.module, decision.reason)
            else:
                schemes[decision.layer.module] += _variants(decision.scheme, sparsities)
    left_alone = {layers[module].name: reason for module, reason in reasons.items() if not schemes[module]}
    found = [(layer, tuple(dict.fromkeys(schemes[module]))) for module, layer in layers.items() if schemes[module]]
    if not found:
        raise ValueError(f"nothing to scan: all {len(layers)} layers are left alone by config")
    served = {each.owner.module for each in shared_tables(find_layers(model, tables=True), {})}
    ties = {module: name for module, name in tied_weights(model).items() if module not in served}
    return [_unit(name, members, ties) for name, members in _grouped(found, groups).items()], left_alone


def taker_of(config: Config) -> str:
    """The function that carries ``config`` out, being one that a scan knows.

    Raises:
        TypeError: it is no configuration, or one for another function, or for several.
    """
    if isinstance(config, PerLayer):
        takers = {scheme.carried_out_by for scheme in config.rules.values() if scheme is not None}
        if len(takers) > 1:
            raise TypeError(
                f"config: a PerLayer holds schemes for {' and '.join(sorted(takers))}; give a list of several, one each"
            )
        taker = takers.pop() if takers else "convert_"
    else:
        taker = config.carried_out_by if isinstance(config, Scheme) else "convert_"
    check_config(config, taker)
    if taker not in TASKS:
        raise TypeError(f"config: expected schemes for {', '.join(TASKS)}, got one for {taker}: {config!r}")
    return taker


def reached(units: list[Unit], modules: Container[nn.Module]) -> tuple[list[Unit], dict[str, str]]:
    """The units without the layers that are not among ``modules``, and those layers with the reason.

    Raises:
        ValueError: none is left.
    """
    unreached = {layer.name for unit in units for layer in unit.layers if layer.module not in modules}
    kept = []
    for unit in units:
        layers = tuple(layer for layer in unit.layers if layer.name not in unreached)
        kept += [dataclasses.replace(unit, layers=layers)] if layers else []
    if not kept:
        raise ValueError(f"nothing to scan: the data never reached any of {len(unreached)} layers")
    return kept, dict.fromkeys(sorted(unreached), "the data never reached it")


def _variants(scheme: Scheme, sparsities: Sequence[float] | None) -> list[Scheme]:
    """The scheme, or where it prunes, and sparsities are given, the scheme with each of them."""
    if not isinstance(scheme, Prune):
        return [scheme]
    if scheme.scope != "local":
        raise ValueError(f"config: scope {scheme.scope!r} compares layers, but each is pruned alone; use 'local'")
    chosen = sorted({scheme.share} if sparsities is None else set(sparsities))
    if not chosen or not all(0 < sparsity <= 1 for sparsity in chosen):
        raise ValueError(f"sparsities: expected numbers above 0 and at most 1, got {chosen}")
    # The target has decided which layers are scanned.
    return [dataclasses.replace(scheme, target=None, sparsity=sparsity) for sparsity in chosen]


def _grouped(
    found: list[tuple[Layer, tuple[Scheme, ...]]], groups: Sequence[str]
) -> dict[str, list[tuple[Layer, tuple[Scheme, ...]]]]:
    """What is changed together, by the name of the layer or of the rule that made the group."""
    if isinstance(groups, str):
        raise TypeError(f"groups: expected a list of names or patterns, got a str; write [{groups!r}]")
    try:
        matched = match(dict.fromkeys(groups), [layer.name for layer, _ in found]) if groups else {}
    except ValueError as error:
        raise ValueError(f"groups: {error}") from None
    members: dict[str, list[tuple[Layer, tuple[Scheme, ...]]]] = {}
    for layer, schemes in found:
        name = matched[layer.name].rule if layer.name in matched else layer.name
        members.setdefault(name, []).append((layer, schemes))
    return members


def _unit(name: str, members: list[tuple[Layer, tuple[Scheme, ...]]], ties: Mapping[nn.Module, str]) -> Unit:
    lists = {schemes for _, schemes in members}
    if len(lists) > 1:
        raise ValueError(f"groups: the layers of {name!r} are changed together but have {len(lists)} lists of schemes")
    layers = tuple(layer for layer, _ in members)
    kept = sum(layer.linear.weight.nbytes for layer in layers if layer.module in ties)
    return Unit(name, layers, lists.pop(), kept)


def _steps(layer: Layer, scheme: Prune) -> int:
    height, width = pattern_of(scheme.pattern).units(*to_matrix(layer.linear.weight).shape)
    return width if scheme.method == "wanda" else height * width  # Wanda takes the same from each row
