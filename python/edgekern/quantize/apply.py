"""``quantize_``: rounding weights of a float model in place, all that was asked for or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from edgekern.calibration.errors import UNREACHED, data_errors_as
from edgekern.calibration.journal import Replace, journal
from edgekern.calibration.matrix import from_matrix
from edgekern.calibration.observe import Moments, check_data
from edgekern.calibration.progress import progress_bar
from edgekern.calibration.walk import Walk
from edgekern.config import Calibrated, Config, Int4, Int8, Migrating, check_config
from edgekern.nn.layers import tensor_identity
from edgekern.plan import Decision, FilterFn, check_filter_fn, check_model, plan
from edgekern.quantize.job import Job
from edgekern.quantize.migrate import migrate
from edgekern.quantize.producers import count_owners
from edgekern.quantize.report import QuantizeReport, QuantizeRow
from edgekern.quantize.task import QuantizeError, Quantizing


@data_errors_as(QuantizeError)
def quantize_(
    model: nn.Module,
    config: Config,
    data: Iterable[Any] | None = None,
    filter_fn: FilterFn | None = None,
    *,
    progress: bool = True,
) -> QuantizeReport:
    """Rounds weights of the linear and 2-d convolution layers of ``model``, in place: all that was asked for, or none.

    ``GPTQ`` rounds a layer's weights one by one, those not yet rounded making up for it. ``AWQ`` and ``SmoothQuant``
    first scale layers' input channels, and divide what produces those; where nothing can take the division, which is
    tried on the first batch, a layer is rounded without, and the report says so. The latter two leave convolutions
    alone.

    The model stays an ordinary float model, whose weights have the values that converting keeps:
    ``convert_(model, report.config)`` then stores the very integers that were chosen here. It can be scored, saved and
    loaded before that. Weights that are zero stay zero, so it comes after pruning. Static ranges of activations are not
    found here but by ``convert_(model, report.config, data=data)``, from what the rounded weights make of the data.

    Layers are quantised in the order in which the model first calls them, each by inputs that come through the layers
    quantised before it, as they will in use; in a chain of blocks without starting over for each, see
    ``calibration/walk.py``. Only the statistics of layers that share an input are in memory, in_features squared
    float32 values each, and the inputs of one block where they take no more than the model. Everything is checked
    before the first weight changes; if calibration fails on the way, or is interrupted, every weight is put back. For
    that, both versions of the weights are in memory until the call returns. Parameters keep their identity.

    Left alone, each with its reason in the report: what ``convert_`` would leave alone, and layers that the calibration
    data never reach.

    Args:
        model: any module that holds layers, or a layer.
        config: one ``GPTQ``, ``AWQ`` or ``SmoothQuant`` for every layer, or ``PerLayer`` with them.
        data: batches to run the model on, in eval mode and without autograd. A mapping is passed as keyword arguments,
            a tuple or list as positional ones, anything else as the only one. What can be iterated only once is kept.
        filter_fn: called as ``filter_fn(module, name)`` for each linear and convolution layer; false leaves it alone.
        progress: shows a progress bar.

    Returns:
        What became of every linear and 2-d convolution layer, and the configuration to convert by.

    Raises:
        TypeError: an argument of another type.
        QuantizeError: data missing, empty, or giving NaN; a weight that holds NaN or infinity, or is too large; a rule
            for a layer that does not exist or cannot be quantised; rules at odds over a layer with several names;
            nothing to quantise at all.
    """
    _check_arguments(model, config, data, filter_fn)
    decisions = plan(model, config, filter_fn, Quantizing())
    jobs = {d.layer.module: Job(d.layer, d.scheme) for d in decisions if isinstance(d.scheme, Calibrated)}
    owners = count_owners(model)
    for job in jobs.values():
        job.shares_bias = job.layer.linear.bias is not None and owners[tensor_identity(job.layer.linear.bias)] > 1
    if jobs:
        if data is None:
            name = type(next(iter(jobs.values())).scheme).__name__
            raise QuantizeError(f"data: {name} needs calibration data; pass an iterable of batches")
        batches = list(data) if iter(data) is data else data
        with journal() as replace, progress_bar("Quantising", len(jobs), progress) as advance:
            _carry_out(model, jobs, batches, replace, advance)
    return QuantizeReport(tuple(_row(decision, jobs.get(decision.layer.module)) for decision in decisions))


def _carry_out(
    model: nn.Module,
    jobs: dict[nn.Module, Job],
    batches: Iterable[Any],
    replace: Replace,
    advance: Callable[[str], None],
) -> None:
    walk = Walk(model, list(jobs), batches)
    if any(isinstance(job.scheme, Migrating) for job in jobs.values()):
        migrate(model, jobs, walk, next(iter(batches)), replace)
        walk.restart()
    for stage in walk.stages:
        lots = walk.sharing(stage)
        watchers = {lot[0]: Moments(lot[0]) for lot in lots}
        walk.gather(watchers)
        for lot in lots:
            watcher = watchers.pop(lot[0])  # freed once it was used
            for job in (jobs[layer] for layer in lot):
                if watcher.seen(job.name):
                    _round(job, watcher, replace)
                    advance(job.name)
    if all(job.reason for job in jobs.values()):
        raise QuantizeError(f"nothing to quantise: of each of {len(jobs)} layers, {UNREACHED}")


def _round(job: Job, watcher: Moments, replace: Replace) -> None:
    rounded = job.solved(watcher.total)
    bias = job.corrected_bias(rounded, watcher.mean())
    replace(job.weight, from_matrix(rounded, job.weight))
    if bias is not None:
        replace(job.layer.linear.bias.detach(), bias)


# ---------------------------------------------------------------------------------------------- before and after


def _check_arguments(model: object, config: object, data: object, filter_fn: object) -> None:
    check_model(model, Quantizing.verb, QuantizeError)
    if isinstance(config, Int4 | Int8):
        raise TypeError(f"config: expected a scheme such as GPTQ or PerLayer, got {config!r}; write GPTQ({config!r})")
    check_config(config, "quantize_")
    check_filter_fn(filter_fn)
    check_data(data)


def _row(decision: Decision, job: Job | None) -> QuantizeRow:
    layer = decision.layer
    if job is None or job.reason:
        reason = job.reason if job else decision.reason
        return QuantizeRow(layer.name, layer.kind, layer.shape, None, 0.0, 0.0, "", "", reason)
    note = "; ".join(job.notes)
    to = job.scheme.target
    return QuantizeRow(layer.name, layer.kind, layer.shape, to, job.nearest, job.error, job.source, note, "")
