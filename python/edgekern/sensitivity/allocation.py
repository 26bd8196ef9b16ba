"""``allocate``: a scheme for each layer, such that all together stay within a budget at the least loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from edgekern.calibration.errors import data_errors_as
from edgekern.calibration.observe import check_data
from edgekern.config import Config, Int4, Int8, PerLayer, Prune, Scheme
from edgekern.match import DEFAULT
from edgekern.plan import FilterFn
from edgekern.sensitivity.budget import BITS, BYTES, MS, ZEROS, Budget, parse_budget
from edgekern.sensitivity.knapsack import Option, best_choice, least_cost
from edgekern.sensitivity.quality import Metric, usual_metric
from edgekern.sensitivity.result import Sensitivity, SensitivityRow
from edgekern.sensitivity.scan import sensitivity
from edgekern.sensitivity.zeros import Curve, best_shares, most_zeros


@data_errors_as(ValueError)
def allocate(
    model: nn.Module | Sensitivity,
    budget: str,
    data: Iterable[Any] | None = None,
    config: Config | Sequence[Config] | None = None,
    filter_fn: FilterFn | None = None,
    *,
    metric: Metric | None = None,
    rows: int | None = None,
    higher_is_better: bool = True,
    progress: bool = True,
) -> PerLayer:
    """A scheme for each layer, or none, such that all stay within ``budget`` and their losses add up to the least.

    Losses, sizes and latencies are those of the layers changed one by one, as ``sensitivity`` measures them on this
    machine. That losses of single layers add up is roughly so: score the model that comes of it.

    A budget is what the layers that are scanned may come to:

    - ``"4.5 bpw"``: bits a weight, of all of them together; scales, biases and padding count;
    - ``"120 MB"`` (also B, kB, GB, KiB, MiB, GiB): bytes of the model's weights, those of all other layers included;
    - ``"8 ms"`` (also us, s): time of one call of each, added up, for ``rows`` rows;
    - ``"60% zeros"``: the share of their weights to be pruned. Shares in between those that were scanned are used too,
      with the loss taken for linear, so that the total is exact to the weight.

    It is never exceeded. With a few layers the choice within it is the best; with many, it is as good as the best for a
    budget that is smaller by a 20,000th, for each layer, of what lies between the least and the most that they all can
    come to. A larger budget never leads to a larger sum of losses.

    Args:
        model: the model, which is scanned, and is then as it was; or the result of ``sensitivity``, in which case
            nothing else than ``budget`` is taken. Keep one to try several budgets.
        budget: as above.
        data: batches, as for ``sensitivity``; a few hundred tokens do for a language model, if it gives the logits of
            all of them.
        config: schemes to choose from, each for all layers that it is for: a list of those of ``convert_``, of
            ``quantize_``, or of ``prune_``. None stands for ``Int4`` in groups of 128, 64 and 32 and ``Int8``, and for
            ``Prune`` at several sparsities where the budget is one of zeros. Every layer may also stay as it is.
        filter_fn: as for ``sensitivity``.
        metric: as for ``sensitivity``. By name it is estimated, which takes a pass over the data for each layer; None
            stands for "kl" where the model's output has ``logits``, and for "mse" elsewhere. A function is called for
            each layer and scheme.
        rows: rows (tokens) of a call, for budgets of time: what the model will be called with. None: as in ``data``.
        higher_is_better: of a ``metric`` that is a function.
        progress: shows a progress bar.

    Returns:
        A rule for each layer scanned, None for one that stays as it is. For ``convert_``, ``quantize_`` or ``prune_``,
        as the schemes are; print its ``rules``, change them, or keep them with ``edgekern.config.write_config``.

    Raises:
        TypeError: an argument of another type.
        ValueError: a budget that cannot be read, or that cannot be met, with the least (of zeros, the most) that can;
            schemes for different functions; a scan without latencies, for a budget of time; whatever ``sensitivity``
            would refuse.
    """
    limit = parse_budget(budget)
    if isinstance(model, Sensitivity):
        given = {"data": data, "config": config, "filter_fn": filter_fn, "metric": metric, "rows": rows}
        if extra := [name for name, value in given.items() if value is not None]:
            raise TypeError(
                f"{', '.join(extra)}: a scan was given as model, which settles that; pass the model instead"
            )
        return _from_scan(model, limit)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a module, or what sensitivity() returns; got {type(model).__name__}")
    check_data(data)
    if data is None and not callable(metric):
        raise ValueError("data: what a layer loses is measured on data; pass an iterable of batches")
    if config is None and limit.kind != ZEROS:
        called_with = {} if rows is None else {"rows": rows}
        config = [*(Int4(size, **called_with) for size in (128, 64, 32)), Int8(**called_with)]  # type: ignore[arg-type]
    batches = list(data) if data is not None and iter(data) is data else data
    if metric is None and batches is not None:
        metric = usual_metric(model, batches)
    scan = sensitivity(
        model,
        metric or "mse",
        batches,
        config,
        filter_fn,
        rows=rows,
        higher_is_better=higher_is_better,
        estimate=not callable(metric),
        # What pruned layers take is known from converting them, which only those that are timed are.
        latency=limit.kind == MS or (limit.kind != ZEROS and _prunes(config)),
        progress=progress,
    )
    return _from_scan(scan, limit)


def _prunes(config: Config | Sequence[Config] | None) -> bool:
    configs = config if isinstance(config, list | tuple) else [config]
    schemes = [scheme for each in configs for scheme in (each.rules.values() if isinstance(each, PerLayer) else [each])]
    return any(isinstance(scheme, Prune) for scheme in schemes)


def _from_scan(scan: Sensitivity, budget: Budget) -> PerLayer:
    takers = {row.scheme.carried_out_by for row in scan}
    if len(takers) > 1:
        raise ValueError(
            f"config: the schemes are for {' and '.join(sorted(takers))}, and one configuration goes to one of them; "
            "allocate pruning first, then bits on the pruned model; and write GPTQ(Int8()) beside GPTQ(Int4())"
        )
    chosen = _by_zeros(scan, budget) if budget.kind == ZEROS else _by_cost(scan, budget)
    curves = scan.curves()
    rules = {layer: scheme for name, scheme in chosen.items() for layer in curves[name][0].layers}
    return PerLayer({layer or DEFAULT: scheme for layer, scheme in rules.items()})  # no name: it is the model


# ---------------------------------------------------------------------------------------------- zeros


def _by_zeros(scan: Sensitivity, budget: Budget) -> dict[str, Prune | None]:
    curves: dict[str, Curve] = {}
    for row in scan:
        if not isinstance(row.scheme, Prune):
            raise ValueError(f"budget: {budget} come of pruning, and {row.scheme!r} makes none; give Prune schemes")
        if ":" in row.scheme.pattern:
            raise ValueError(f"pattern {row.scheme.pattern!r} of {row.name!r} has one sparsity, nothing to allocate")
        curves.setdefault(row.name, []).append((row, row.scheme))
    most = most_zeros(curves)
    if budget.amount > most + 1e-9:
        raise ValueError(f"budget: {budget} cannot be met; the most that was scanned is {budget.show(most)}")
    shares = best_shares(curves, budget.amount)
    return {
        name: dataclasses.replace(curves[name][0][1], sparsity=share) if share else None
        for name, share in shares.items()
    }


# ---------------------------------------------------------------------------------------------- bits, bytes and time


def _by_cost(scan: Sensitivity, budget: Budget) -> dict[str, Scheme | None]:
    curves = scan.curves()
    chosen: dict[str, Scheme | None] = dict.fromkeys(curves)
    options: dict[str, list[tuple[Option, Scheme | None]]] = {}
    for name, curve in curves.items():
        known = [(_cost(row, budget.kind), row) for row in curve]
        # A measured loss below nothing is a wobble, and not to be spent on.
        some = [(Option(cost, max(row.loss, 0.0)), row.scheme) for cost, row in known if cost is not None]
        if some:
            options[name] = [(Option(_cost_as_it_is(curve[0], budget.kind), 0.0), None), *some]
    if not options:
        raise ValueError(f"budget: {budget} needs a scan with latency=True, and layers that can be converted")
    only = [[option for option, _ in each] for each in options.values()]
    weights = sum(curves[name][0].weights for name in options)
    limit, beside = budget.amount, 0.0
    if budget.kind == BITS:
        limit *= weights
    elif budget.kind == BYTES:
        beside = scan.other_bytes + sum(curve[0].float_bytes for name, curve in curves.items() if name not in options)
    least = least_cost(only)
    if limit - beside < least:
        shown = (least + beside) / (weights if budget.kind == BITS else 1)
        raise ValueError(f"budget: {budget} cannot be met; the least that the schemes come to is {budget.show(shown)}")
    for (name, each), index in zip(options.items(), best_choice(only, limit - beside), strict=True):
        chosen[name] = each[index][1]
    return chosen


def _cost(row: SensitivityRow, kind: str) -> float | None:
    """What a layer comes to once the scheme was carried out and it was converted; None when that is not known."""
    if kind == MS:
        return row.ms
    if row.nbytes is None:
        return None
    return 8.0 * row.nbytes if kind == BITS else row.nbytes + row.kept_bytes


def _cost_as_it_is(row: SensitivityRow, kind: str) -> float:
    """The same without the scheme: in floats or, where that prunes, converted without having been pruned."""
    if kind == MS:
        ms = row.float_ms if row.unpruned_ms is None else row.unpruned_ms
        assert ms is not None  # measured with the others
        return ms
    if row.unpruned_bytes is not None:
        return 8.0 * row.unpruned_bytes if kind == BITS else row.unpruned_bytes + row.kept_bytes
    return 8.0 * row.float_bytes if kind == BITS else row.float_bytes
