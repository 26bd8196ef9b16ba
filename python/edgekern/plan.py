"""Deciding, for every layer of a model, whether it is changed and if not why. Nothing here changes a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from edgekern.config import Config, PerLayer, Scheme
from edgekern.match import DEFAULT, Match, match
from edgekern.nn.layers import Layer, find_layers, objection, obstacle, tied_weights
from edgekern.nn.qat_linear import at_odds
from edgekern.nn.schemes import obstacle_in_scheme
from edgekern.nn.tables import Shared, shared_tables

FilterFn = Callable[[nn.Module, str], bool]


class ConvertError(ValueError):
    """A model cannot be converted as asked. It is as it was before the call."""


class Task(Protocol):
    """What is planned: the questions it asks of a layer, and its words for what it does."""

    verb: str
    done: str
    layers: str
    """Which layers it is for."""
    tables: bool
    """Whether embedding tables are among them."""
    error: type[ValueError]

    def is_for(self, module: nn.Module) -> bool:
        """Whether ``filter_fn`` is asked about it."""

    def obstacle(self, layer: Layer, scheme: Scheme) -> str:
        """Why it cannot be done to ``layer``; empty when it can."""

    def objection(self, layer: Layer, ties: dict[nn.Module, str], scheme: Scheme) -> str:
        """Why ``layer`` is left alone unless a rule asks for it; empty when nothing speaks against it."""

    def is_done(self, layer: Layer) -> bool:
        """Whether ``layer`` is what it shall be already."""


class Conversion:
    """The task of ``convert_``."""

    verb = "convert"
    done = "converted"
    layers = "linear or 2-d convolution layers"
    tables = True
    error: type[ValueError] = ConvertError

    def is_for(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Linear | nn.Conv2d)

    def obstacle(self, layer: Layer, scheme: Scheme) -> str:
        if reason := at_odds(layer.module, scheme):
            # Never just left alone: the rest of the model would be converted, and this layer go on training.
            raise ConvertError(f"layer {layer.name!r} cannot be {self.done}: {reason}")
        return obstacle_in_scheme(layer, scheme) or obstacle(layer)

    def objection(self, layer: Layer, ties: dict[nn.Module, str], scheme: Scheme) -> str:
        return objection(layer, ties, scheme)

    def is_done(self, layer: Layer) -> bool:
        return layer.native is not None


def check_model(model: object, verb: str, error: type[ValueError]) -> None:
    """TypeError or ``error`` unless it is a module that can be changed in place."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise error(f"model: a TorchScript module cannot be changed in place; {verb} it before torch.jit.script")


def check_filter_fn(filter_fn: object) -> None:
    """TypeError unless it is None or can be called."""
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(f"filter_fn: expected a function (module, name) -> bool, got {type(filter_fn).__name__}")


@dataclass(frozen=True)
class Decision:
    """What shall become of one layer: a scheme, or a reason to leave it alone."""

    layer: Layer
    scheme: Scheme | None
    reason: str
    owner: Layer | None = None
    """The layer whose weights it shall read, where both are done as one."""


def plan(
    model: nn.Module,
    config: Config,
    filter_fn: FilterFn | None,
    task: Task | None = None,
    tied: Mapping[str, str] | None = None,
) -> list[Decision]:
    """One decision for each layer of ``model``, in order; the task is conversion unless another is given.

    A table and the layer that shares its weight are done as one, or neither is: the most direct rule among those for
    both decides.

    Args:
        tied: as for ``shared_tables``.

    Raises:
        ValueError: the task's error. A rule that speaks for no layer, that names a layer which the task cannot be done
            to, or that is at odds with another; a weight that is not finite; nothing to do although something was
            asked for.
    """
    task = task or Conversion()
    layers = find_layers(model, tables=task.tables)
    matches = _matches(layers, config, task)
    rules = {layer.module: _rule_for(layer.names, matches, task) for layer in layers}
    ties = tied_weights(model)
    shared = shared_tables(layers, tied or {}) if task.tables else []
    apart = {}
    for each in shared:
        why = _join(each, matches, rules, task)
        apart.update({table.module: why for table in each.tables})
    declined = _declined(layers, rules, shared, filter_fn, task)
    owners = {table.module: each.owner for each in shared for table in each.tables}
    decisions = []
    for layer in layers:
        rule = rules[layer.module]
        reason = _reason(layer, rule, ties, apart.get(layer.module, ""), layer.module in declined, task)
        scheme = None if reason or rule is None else rule.value
        decisions.append(Decision(layer, scheme, reason, None if scheme is None else owners.get(layer.module)))
    if not layers or any(rule is not None and rule.value is not None for rule in rules.values()):
        _check_not_idle(decisions, task)
    for decision in decisions:
        if decision.scheme is not None and not decision.layer.linear.weight.is_meta:
            check_finite(decision.layer, decision.scheme, task)
    return decisions


def _join(
    shared: Shared,
    matches: dict[str, Match[Scheme | None]],
    rules: dict[nn.Module, Match[Scheme | None] | None],
    task: Task,
) -> str:
    """Puts one rule in force for layers of one weight; why that is not possible and each keeps its own, if so."""
    rule = _rule_for([name for layer in shared.layers for name in layer.names], matches, task)
    if rule is not None and rule.value is not None:
        for layer in shared.layers:
            if reason := task.obstacle(layer, rule.value):
                return f"its weight is also that of {shared.owner.name!r}, and of {layer.name!r} it says: {reason}"
    rules.update({layer.module: rule for layer in shared.layers})
    return ""


def _declined(
    layers: Sequence[Layer],
    rules: Mapping[nn.Module, Match[Scheme | None] | None],
    shared: Sequence[Shared],
    filter_fn: FilterFn | None,
    task: Task,
) -> set[nn.Module]:
    """Modules that ``filter_fn`` does not want, of those that a rule asks for, and tables that share their weight."""
    if filter_fn is None:
        return set()
    declined = set()
    for layer in layers:
        rule = rules[layer.module]
        if rule is not None and rule.value is not None and task.is_for(layer.module):
            if not all(filter_fn(layer.module, name) for name in layer.names):
                declined.add(layer.module)
    return declined | {table.module for each in shared if each.owner.module in declined for table in each.tables}


def _matches(layers: list[Layer], config: Config, task: Task) -> dict[str, Match[Scheme | None]]:
    names = [name for layer in layers for name in layer.names]
    if not isinstance(config, PerLayer):
        return {name: Match(DEFAULT, config) for name in names}
    try:
        return match(config.rules, names)
    except ValueError as error:
        raise task.error(f"config: {error}") from None


def _rule_for(
    names: Sequence[str], matches: dict[str, Match[Scheme | None]], task: Task
) -> Match[Scheme | None] | None:
    """The most direct rule among those for a layer's names."""
    found = {name: matches[name] for name in names if name in matches}
    if not found:
        return None
    rank = max(rule.rank for rule in found.values())
    direct = {name: rule for name, rule in found.items() if rule.rank == rank}
    if len({rule.value for rule in direct.values()}) > 1:
        said = ", ".join(f"{rule.value!r} for {name!r}" for name, rule in direct.items())
        raise task.error(f"config: {' and '.join(map(repr, direct))} are one shared weight, but the rules say {said}")
    return next(iter(direct.values()))


def _reason(
    layer: Layer,
    rule: Match[Scheme | None] | None,
    ties: dict[nn.Module, str],
    apart: str,
    declined: bool,
    task: Task,
) -> str:
    if rule is None:
        return "no rule speaks for it, and there is no '_default'"
    if rule.value is None:
        return f"the rule {rule.rule!r} is None"
    if declined:
        return "filter_fn declined it"
    reason = task.obstacle(layer, rule.value) or apart
    if reason and rule.rank == 2 and not task.is_done(layer):
        raise task.error(f"config: {rule.rule!r} is named but cannot be {task.done}: {reason}")
    return reason or (task.objection(layer, ties, rule.value) if rule.rank == 0 else "")


def _check_not_idle(decisions: list[Decision], task: Task) -> None:
    if any(decision.scheme is not None or task.is_done(decision.layer) for decision in decisions):
        return
    if not decisions:
        raise task.error(f"nothing to {task.verb}: the model has no {task.layers}")
    reasons = Counter(decision.reason for decision in decisions)
    examples = {decision.reason: decision.layer.name for decision in reversed(decisions)}
    lines = [f"  {examples[reason]!r} ({count} such): {reason}" for reason, count in reasons.most_common()]
    raise task.error("\n".join([f"nothing to {task.verb}: all {len(decisions)} layers are left alone", *lines]))


def check_finite(layer: Layer, scheme: Scheme, task: Task) -> None:
    """Raises the task's error when a weight of ``layer`` is NaN or infinite."""
    low, high = torch.aminmax(layer.linear.weight.detach())  # one pass, no copy, and NaN wins
    if not (low.isfinite() and high.isfinite()):
        value = "NaN" if low.isnan() else "infinity"
        raise task.error(
            f"the weight of {layer.name!r} holds {value}; repair it (torch.nan_to_num_), "
            f"or leave the layer alone: PerLayer({{{layer.name!r}: None, '_default': {scheme!r}}})"
        )
