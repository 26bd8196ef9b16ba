"""``sensitivity``: prunes one layer after the other, alone, and looks at what that does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.calibration.errors import data_errors_as
from edgekern.calibration.matrix import to_matrix
from edgekern.calibration.progress import progress_bar
from edgekern.config import Config, PerLayer, Prune
from edgekern.match import DEFAULT, match
from edgekern.nn.layers import Layer
from edgekern.nn.swap import uninterrupted
from edgekern.plan import Decision, FilterFn, plan
from edgekern.prune.apply import check_arguments, prune_
from edgekern.prune.patterns import pattern_of
from edgekern.prune.task import PruneError, Pruning
from edgekern.sensitivity.latency import Candidates, Times, example_inputs
from edgekern.sensitivity.quality import Metric, Quality, check_metric
from edgekern.sensitivity.result import Sensitivity, SensitivityRow

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)


@data_errors_as(PruneError)
def sensitivity(
    model: nn.Module,
    metric: Metric = "mse",
    data: Iterable[Any] | None = None,
    config: Config | None = None,
    filter_fn: FilterFn | None = None,
    *,
    sparsities: Sequence[float] | None = None,
    groups: Sequence[str] = (),
    higher_is_better: bool = True,
    latency: bool = True,
    progress: bool = True,
) -> Sensitivity:
    """What pruning each layer alone, at several sparsities, does to quality and to that layer's latency.

    After each layer the model is bit for bit what it was, and also when this ends by an exception or Ctrl-C. In memory
    at a time are the weights of one layer (or group) once more, its int8 copies, and, for a metric by name, the dense
    model's outputs on ``data``. Each layer and sparsity takes a call of the metric, and for methods that calibrate a
    pass over the data besides.

    Latency is that of the layer called alone, with an input of the shape that the first batch gives it: in floats, as
    ``convert_`` makes it int8, and as ``convert_`` makes it int8 after pruning. They are timed in turns, for some three
    seconds a layer. Convolutions, which have no int8 kernel, have no latency.

    Args:
        model: as for ``prune_``.
        metric: ``metric(model)``, a number; or by name, against the outputs of the dense model on ``data``: "mse", the
            squared error over the outputs' square, or "kl", the divergence of the softmax over the last dimension. Of
            several outputs, ``logits`` counts, or else the first.
        data: batches, as for ``prune_``; needed unless ``metric`` is a function, ``latency`` false, and the method
            one that takes no data.
        config: pattern and method, as for ``prune_``, with scope "local"; its sparsity does not matter. None stands for
            ``Prune(0.5)``.
        filter_fn: as for ``prune_``.
        sparsities: to try, each above 0 and at most 1; (0.5, 0.6, 0.7, 0.8, 0.9) unless given. N:M has but its own.
        groups: names or ``re:`` patterns; layers that one of them matches are pruned together, and make one curve.
        higher_is_better: of a ``metric`` that is a function.
        latency: whether to measure it.
        progress: shows a progress bar.

    Raises:
        TypeError: an argument of another type.
        ValueError: a scope other than "local", a group that matches nothing or mixes schemes, sparsities out of range,
            a metric that is not finite.
        PruneError: as for ``prune_``; data missing.
    """
    check_metric(metric)
    config = Prune(0.5) if config is None else config
    check_arguments(model, config, data, filter_fn)
    decisions = plan(model, config, filter_fn, Pruning())
    units = _units(decisions, groups, sparsities)
    batches = _checked_data(data, isinstance(metric, str), latency, units)
    left_alone = {d.layer.name: d.reason for d in decisions if d.reason}
    examples: Mapping[nn.Module, Tensor] = {}
    if data is not None:
        examples = example_inputs(model, [layer for unit in units for layer in unit.layers], batches)
        units, unreached = _reached(units, examples)
        left_alone |= unreached
    quality = Quality(model, metric, batches, higher_is_better)
    rows: list[SensitivityRow] = []
    with progress_bar("Scanning", sum(len(unit.sparsities) for unit in units), progress) as advance:
        for unit in units:
            rows += _scan(model, unit, batches, quality, examples if latency else {}, advance)
    return Sensitivity(
        tuple(rows), quality.name, quality.baseline, quality.higher_is_better, torch.get_num_threads(), left_alone
    )


@dataclass(frozen=True)
class _Unit:
    """Layers that are pruned together, often one, by one scheme."""

    name: str
    layers: tuple[Layer, ...]
    scheme: Prune
    sparsities: tuple[float, ...]

    def rules(self, sparsity: float) -> PerLayer:
        scheme = dataclasses.replace(self.scheme, sparsity=sparsity)
        return PerLayer({layer.name or DEFAULT: scheme for layer in self.layers})  # no name: it is the model

    @property
    def steps(self) -> int:
        """In how many equal steps its sparsity can vary."""
        return sum(_steps(layer, self.scheme) for layer in self.layers)


def _steps(layer: Layer, scheme: Prune) -> int:
    height, width = pattern_of(scheme.pattern).units(*to_matrix(layer.linear.weight).shape)
    return width if scheme.method == "wanda" else height * width  # Wanda takes the same from each row


def _units(decisions: Sequence[Decision], groups: Sequence[str], sparsities: Sequence[float] | None) -> list[_Unit]:
    """What is pruned together, in the model's order of first layers."""
    planned = [(d.layer, d.scheme) for d in decisions if isinstance(d.scheme, Prune)]
    if isinstance(groups, str):
        raise TypeError(f"groups: expected a list of names or patterns, got a str; write [{groups!r}]")
    try:
        matched = match(dict.fromkeys(groups), [layer.name for layer, _ in planned]) if groups else {}
    except ValueError as error:
        raise ValueError(f"groups: {error}") from None
    members: dict[str, list[tuple[Layer, Prune]]] = {}
    for layer, scheme in planned:
        members.setdefault(matched[layer.name].rule if layer.name in matched else layer.name, []).append(
            (layer, scheme)
        )
    return [_unit(name, found, sparsities) for name, found in members.items()]


def _unit(name: str, members: list[tuple[Layer, Prune]], sparsities: Sequence[float] | None) -> _Unit:
    schemes = list(dict.fromkeys(scheme for _, scheme in members))
    if len(schemes) > 1:
        raise ValueError(
            f"groups: the layers of {name!r} are pruned together but have {len(schemes)} different schemes"
        )
    if schemes[0].scope != "local":
        raise ValueError(f"config: scope {schemes[0].scope!r} compares layers, but each is pruned alone; use 'local'")
    own = (schemes[0].share,) if ":" in schemes[0].pattern else SPARSITIES
    chosen = tuple(sorted(set(own if sparsities is None else sparsities)))
    if not chosen or not all(0 < sparsity <= 1 for sparsity in chosen):
        raise ValueError(f"sparsities: expected numbers above 0 and at most 1, got {list(sparsities or ())}")
    scheme = dataclasses.replace(schemes[0], target=None)  # it has decided which layers are scanned
    for sparsity in chosen:
        dataclasses.replace(scheme, sparsity=sparsity)  # raises for a sparsity that N:M does not have
    return _Unit(name, tuple(layer for layer, _ in members), scheme, chosen)


def _checked_data(data: Iterable[Any] | None, by_name: bool, latency: bool, units: list[_Unit]) -> Iterable[Any]:
    """Batches that can be iterated again and again; none where none are needed."""
    if data is not None:
        return list(data) if iter(data) is data else data
    method = next((unit.scheme.method for unit in units if unit.scheme.needs_data), "")
    if by_name:
        raise PruneError("data: a metric by name compares outputs on data; pass an iterable of batches")
    if method:
        raise PruneError(f"data: method={method!r} needs calibration data; pass an iterable of batches")
    if latency:
        raise PruneError("data: latency is measured on inputs of the shapes in data; pass batches, or latency=False")
    return ()


def _reached(units: list[_Unit], examples: Mapping[nn.Module, Tensor]) -> tuple[list[_Unit], dict[str, str]]:
    """The units without layers that the data never reach, and those layers with the reason."""
    unreached = {layer.name for unit in units for layer in unit.layers if layer.module not in examples}
    kept = []
    for unit in units:
        layers = tuple(layer for layer in unit.layers if layer.name not in unreached)
        kept += [dataclasses.replace(unit, layers=layers)] if layers else []
    if not kept:
        raise PruneError(f"nothing to scan: the data never reached any of {len(unreached)} layers")
    return kept, dict.fromkeys(sorted(unreached), "the data never reached it")


def _scan(
    model: nn.Module,
    unit: _Unit,
    batches: Iterable[Any],
    quality: Quality,
    examples: Mapping[nn.Module, Tensor],
    advance: Callable[[str], None],
) -> list[SensitivityRow]:
    timed = examples and all(layer.kind == "Linear" for layer in unit.layers)
    candidates = [Candidates(layer, examples[layer.module]) for layer in unit.layers] if timed else []
    rows = []
    with _restoring([layer.linear.weight for layer in unit.layers]) as restore:
        for sparsity in unit.sparsities:
            # Not sequential: one layer alone is judged by what it gets from dense ones either way.
            report = prune_(model, unit.rules(sparsity), batches, sequential=False, progress=False)
            value = quality.measure(f"{unit.name!r} at {sparsity:.0%}")
            for candidate in candidates:
                candidate.add()
            restore()
            row = SensitivityRow(
                name=unit.name,
                layers=tuple(layer.name for layer in unit.layers),
                scheme=dataclasses.replace(unit.scheme, sparsity=sparsity),
                zeros=sum(row.zeros for row in report.pruned),
                weights=sum(row.weights for row in report.pruned),
                steps=unit.steps,
                quality=value,
                loss=quality.loss(value),
            )
            rows.append(row)
            advance(unit.name)
    return _with_times(rows, [candidate.times() for candidate in candidates])


def _with_times(rows: list[SensitivityRow], times: list[Times]) -> list[SensitivityRow]:
    """The rows with the summed times of their layers, if there are any."""
    if not times:
        return rows
    float_ms, int8_ms = sum(each.float_ms for each in times), sum(each.int8_ms for each in times)
    return [
        dataclasses.replace(row, float_ms=float_ms, int8_ms=int8_ms, pruned_ms=sum(t.pruned_ms[i] for t in times))
        for i, row in enumerate(rows)
    ]


@contextmanager
def _restoring(weights: list[Tensor]) -> Iterator[Callable[[], None]]:
    """Gives a function that puts the weights back as they are now; called at the end in any case."""
    originals = [weight.detach().clone() for weight in weights]

    def restore() -> None:
        with uninterrupted(), torch.no_grad():
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(original)

    try:
        yield restore
    finally:
        restore()
