"""``sensitivity``: changes one layer after the other, alone, and looks at what that does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekern.calibration.errors import data_errors_as
from edgekern.calibration.observe import check_data
from edgekern.calibration.progress import progress_bar
from edgekern.config import Config, Prune, Scheme
from edgekern.nn import NativeLayer
from edgekern.nn.layers import LINEAR, tensor_identity
from edgekern.nn.memory import part_of_a_model
from edgekern.nn.schemes import obstacle_in_scheme, weight_bytes_as
from edgekern.plan import FilterFn, check_filter_fn, check_model
from edgekern.sensitivity.estimate import Estimate
from edgekern.sensitivity.latency import Stopwatch, example_inputs, made_up_inputs
from edgekern.sensitivity.quality import Judge, Metric, Quality, check_metric
from edgekern.sensitivity.result import Sensitivity, SensitivityRow
from edgekern.sensitivity.trial import Trial, native, runs_as, trial
from edgekern.sensitivity.units import Unit, reached, units_of

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)


@data_errors_as(ValueError)
def sensitivity(
    model: nn.Module,
    metric: Metric = "mse",
    data: Iterable[Any] | None = None,
    config: Config | Sequence[Config] | None = None,
    filter_fn: FilterFn | None = None,
    *,
    sparsities: Sequence[float] | None = None,
    groups: Sequence[str] = (),
    rows: int | None = None,
    higher_is_better: bool = True,
    estimate: bool = False,
    latency: bool = True,
    progress: bool = True,
) -> Sensitivity:
    """What changing each layer alone does to quality, to that layer's size, and to its latency on this CPU.

    A scheme that prunes is carried out on the floats. One that converts is carried out as ``convert_`` does, so that
    quality is that of the real kernels, activation rounding included; ``GPTQ`` rounds the weights first. After each
    layer the model is bit for bit what it was, and also when this ends by an exception or Ctrl-C. In memory at a time
    are the weights of one layer (or group) once more, its converted copies, and, for a metric by name, the model's
    outputs on ``data``. Each layer and scheme takes a call of the metric, and for methods that calibrate one to three
    passes over the data besides.

    Latency is that of the layer called alone, with an input of the shape that the first batch gives it: as it is, and
    converted. Pruned weights are converted to ``Int8`` (to ``joint``, if the scheme has that), after pruning and as
    they were. Layers are timed in turns, for some three seconds; those that are alike share a measurement. Weights come
    from memory where those of a whole model would not fit the cache. Convolutions are timed with images of the shapes
    in ``data``; without data, or as what they cannot be converted to, they have no latency.

    Args:
        model: as for ``convert_`` and ``prune_``.
        metric: ``metric(model)``, a number; or by name, against the outputs of the model as it is on ``data``: "mse",
            the squared error over the outputs' square, or "kl", the divergence of the softmax over the last dimension.
            Of several outputs, ``logits`` counts, or else the first.
        data: batches, as for ``prune_``; needed for a ``metric`` by name, for methods that calibrate, and for latencies
            unless ``rows`` is given.
        config: a scheme, or ``PerLayer``, of ``prune_``, ``convert_`` or ``quantize_``; or a list of them, each of
            which is tried with all layers that it is for. Pruning has to have scope "local". None stands for ``Prune``
            at sparsities of 0.5, 0.6, 0.7, 0.8 and 0.9.
        filter_fn: as for ``convert_`` and ``prune_``.
        sparsities: to try each ``Prune`` with, in place of its own; above 0 and at most 1.
        groups: names or ``re:`` patterns; layers that one of them matches are changed together, and make one curve.
        rows: rows (tokens) of the call that latency is measured for, in place of the shape that the data have.
        higher_is_better: of a ``metric`` that is a function.
        estimate: measures a ``metric`` by name for the first scheme of each layer only. That of its others is the first
            by the ratio of the squared errors of the layer's own outputs, on up to 512 rows of its inputs.
        latency: whether to measure it.
        progress: shows a progress bar.

    Raises:
        TypeError: an argument of another type.
        ValueError: data missing, empty, or reaching no layer; a scope other than "local", a group that matches nothing
            or mixes schemes, sparsities out of range, a metric that is not finite; whatever the functions that carry
            the schemes out would refuse.
    """
    check_metric(metric)
    check_model(model, "scan", ValueError)
    check_filter_fn(filter_fn)
    check_data(data)
    if rows is not None and (type(rows) is not int or rows < 1):
        raise ValueError(f"rows: expected a number of rows from 1, got {rows!r}")
    if estimate and callable(metric):
        raise ValueError("estimate: only metrics by name, 'mse' and 'kl', can be estimated; leave it out to measure")
    units, left_alone = units_of(model, _list_of(config), filter_fn, groups, sparsities)
    batches = _checked_data(data, isinstance(metric, str), latency and rows is None, units)
    layers = [layer for unit in units for layer in unit.layers]
    examples: Mapping[nn.Module, Tensor] = {}
    if data is not None:
        examples = example_inputs(model, layers, batches, rows)
        units, unreached = reached(units, examples)
        left_alone |= unreached
    elif rows is not None:
        examples = made_up_inputs(layers, rows)
    judge: Judge
    if estimate and isinstance(metric, str):
        judge = Estimate(model, metric, [layer for unit in units for layer in unit.layers], batches)
    else:
        judge = Quality(model, metric, batches, higher_is_better)
    scan = _Scan(model, judge, batches, examples if latency else {}, units)
    found: list[SensitivityRow] = []
    with progress_bar("Scanning", sum(len(unit.schemes) for unit in units), progress) as advance:
        for unit in units:
            found += scan.unit(unit, advance)
    scanned = {row.name: row.float_bytes for row in found}
    return Sensitivity(
        rows=tuple(found),
        metric=judge.name,
        baseline=judge.baseline,
        higher_is_better=judge.higher_is_better,
        threads=torch.get_num_threads(),
        left_alone=left_alone | scan.refused,
        other_bytes=_model_bytes(model) - sum(scanned.values()),
    )


def _list_of(config: Config | Sequence[Config] | None) -> list[Config]:
    if config is None:
        return [Prune(sparsity) for sparsity in SPARSITIES]
    # Not the classes of configurations, so that anything else is refused with a hint.
    return list(config) if isinstance(config, list | tuple) else [cast(Config, config)]


def _checked_data(data: Iterable[Any] | None, by_name: bool, for_shapes: bool, units: list[Unit]) -> Iterable[Any]:
    """Batches that can be iterated again and again; none where none are needed."""
    if data is not None:
        return list(data) if iter(data) is data else data
    calibrated = next((scheme for unit in units for scheme in unit.schemes if scheme.needs_data), None)
    if by_name:
        raise ValueError("data: a metric by name compares outputs on data; pass an iterable of batches")
    if calibrated is not None:
        raise ValueError(f"data: {calibrated!r} needs calibration data; pass an iterable of batches")
    if for_shapes:
        raise ValueError(
            "data: latency is measured on inputs of the shapes in data; pass batches, or rows=..., or latency=False"
        )
    return ()


def _model_bytes(model: nn.Module) -> int:
    """Of parameters and buffers, each counted once."""
    tensors = {tensor_identity(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values() if not nn.parameter.is_lazy(tensor))


@dataclass
class _Scan:
    """What all units of a scan have in common."""

    model: nn.Module
    judge: Judge
    batches: Iterable[Any]
    examples: Mapping[nn.Module, Tensor]
    """What to time layers with; none where that is not wanted."""
    units: list[Unit]

    def __post_init__(self) -> None:
        self.refused: dict[str, str] = {}
        """Layers that a scheme turned out to leave alone, by name."""
        self._stopwatch = Stopwatch(sum(unit.float_bytes for unit in self.units))

    def unit(self, unit: Unit, advance: Callable[[str], None]) -> list[SensitivityRow]:
        """The rows of one layer or group."""
        timed = bool(self.examples) and all(layer.module in self.examples for layer in unit.layers)
        linears = [layer.module for layer in unit.layers if layer.kind == LINEAR]
        rows = max(1, self.examples[linears[0]][..., 0].numel()) if timed and linears else None
        found: list[tuple[SensitivityRow, tuple[NativeLayer, ...]]] = []
        for scheme in unit.schemes:
            to = runs_as(scheme, rows)
            with (
                part_of_a_model(self._bytes_as(to)),
                trial(self.model, unit, scheme, self.batches, to if timed else None) as tried,
            ):
                if tried.reason:
                    self.refused |= {layer.name: f"{scheme!r}: {tried.reason}" for layer in unit.layers}
                else:
                    value = self.judge.measure(unit, tried, f"{unit.name!r} with {scheme!r}")
                    found.append((self._row(unit, scheme, to, value, tried), tried.natives))
            advance(unit.name)
        return self._with_times(unit, found) if timed else [row for row, _ in found]

    def _row(self, unit: Unit, scheme: Scheme, to: Scheme, value: float, tried: Trial) -> SensitivityRow:
        loss = self.judge.baseline - value if self.judge.higher_is_better else value - self.judge.baseline
        return SensitivityRow(
            name=unit.name,
            layers=tuple(layer.name for layer in unit.layers),
            scheme=scheme,
            zeros=tried.zeros,
            weights=unit.weights,
            steps=unit.steps(scheme),
            quality=value,
            loss=loss,
            float_bytes=unit.float_bytes,
            kept_bytes=unit.kept_bytes,
            runs_as=to if tried.natives else None,
            nbytes=_bytes_of(tried.natives) if tried.natives else None,
        )

    def _with_times(
        self, unit: Unit, found: list[tuple[SensitivityRow, tuple[NativeLayer, ...]]]
    ) -> list[SensitivityRow]:
        """The rows with the summed times of their layers, and of what they would be without having been pruned."""
        unpruned: dict[Scheme, tuple[NativeLayer, ...]] = {}
        for row, natives in found:
            if isinstance(row.scheme, Prune) and natives and row.runs_as is not None and row.runs_as not in unpruned:
                with part_of_a_model(self._bytes_as(row.runs_as)):
                    made = [native(layer, row.runs_as) for layer in unit.layers]
                unpruned[row.runs_as] = tuple(each for each in made if isinstance(each, NativeLayer))
        variants = [natives for _, natives in found if natives] + list(unpruned.values())
        sums = [0.0] * (1 + len(variants))
        for i, layer in enumerate(unit.layers):
            times = self._stopwatch.times(layer, self.examples[layer.module], [natives[i] for natives in variants])
            sums = [total + ms for total, ms in zip(sums, times, strict=True)]
        float_ms, *converted_ms = sums
        unpruned_ms = dict(zip(unpruned, converted_ms[len(converted_ms) - len(unpruned) :], strict=True))
        ms = iter(converted_ms)
        rows = []
        for row, natives in found:
            if natives:
                row = dataclasses.replace(row, float_ms=float_ms, ms=next(ms))
                if isinstance(row.scheme, Prune) and row.runs_as is not None:
                    whole = row.runs_as
                    nbytes = _bytes_of(unpruned[whole])
                    row = dataclasses.replace(row, unpruned_ms=unpruned_ms[whole], unpruned_bytes=nbytes)
            rows.append(row)
        return rows

    def _bytes_as(self, scheme: Scheme) -> int:
        """Of the weights of all layers scanned, converted; forms are chosen as in a model of this size."""
        layers = [layer for unit in self.units for layer in unit.layers if not obstacle_in_scheme(layer, scheme)]
        return sum(weight_bytes_as(layer, scheme) for layer in layers)


def _bytes_of(natives: Iterable[NativeLayer]) -> int:
    return sum(each.packed_bytes for each in natives)
