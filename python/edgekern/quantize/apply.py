"""``quantize_``: rounding weights of a float model in place, all that was asked for or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.calibration.errors import data_errors_as
from edgekern.calibration.journal import journal
from edgekern.calibration.observe import Hessian, check_data
from edgekern.calibration.progress import progress_bar
from edgekern.calibration.walk import Walk
from edgekern.config import GPTQ, Config, Int4, Int8, check_config
from edgekern.nn.layers import Layer
from edgekern.plan import Decision, FilterFn, check_filter_fn, check_model, plan
from edgekern.quantize.gptq import gptq, nearest, squared_error
from edgekern.quantize.report import QuantizeReport, QuantizeRow
from edgekern.quantize.task import QuantizeError, Quantizing

_UNREACHED = "the calibration data never reached it"


@data_errors_as(QuantizeError)
def quantize_(
    model: nn.Module,
    config: Config,
    data: Iterable[Any] | None = None,
    filter_fn: FilterFn | None = None,
    *,
    progress: bool = True,
) -> QuantizeReport:
    """Rounds weights of the linear layers of ``model`` by GPTQ, in place: all that was asked for, or none.

    The model stays an ordinary float model, whose weights have the values that converting keeps:
    ``convert_(model, report.config)`` then stores the very integers that were chosen here. It can be scored, saved and
    loaded before that. Weights that are zero stay zero, so it comes after pruning.

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
        config: one ``GPTQ`` for every layer, or ``PerLayer`` with them.
        data: batches to run the model on, in eval mode and without autograd. A mapping is passed as keyword arguments,
            a tuple or list as positional ones, anything else as the only one. What can be iterated only once is kept.
        filter_fn: called as ``filter_fn(module, name)`` for each linear layer; false leaves it alone.
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
    jobs = {d.layer.module: _Job(d.layer, d.scheme) for d in decisions if isinstance(d.scheme, GPTQ)}
    if jobs:
        if data is None:
            raise QuantizeError("data: GPTQ needs calibration data; pass an iterable of batches")
        batches = list(data) if iter(data) is data else data
        with journal() as replace, progress_bar("Quantising", len(jobs), progress) as advance:
            _carry_out(model, jobs, batches, replace, advance)
    return QuantizeReport(tuple(_row(decision, jobs.get(decision.layer.module)) for decision in decisions))


@dataclass
class _Job:
    """One layer to quantise."""

    layer: Layer
    scheme: GPTQ
    reason: str = _UNREACHED
    """Why it was left alone after all; empty when it was quantised."""
    nearest: float = 0.0
    """Error of the output when each weight goes to the nearest value, as a share of the output's square."""
    error: float = 0.0
    """Error of the output as it is now, likewise."""

    def solved(self, hessian: Tensor) -> Tensor:
        """The rounded matrix; ``hessian`` is float32 [in, in].

        Raises:
            QuantizeError: a damped Hessian that is singular, or weights that are too large.
        """
        weight, to = self.layer.linear.weight.detach(), self.scheme.to
        matrix = weight.float().contiguous()
        try:
            apart = nearest(matrix, to)
            rounded = gptq(matrix, hessian, self.scheme, weight.dtype)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # it is there, but not exported
            raise QuantizeError(
                f"the inputs of {self.layer.name!r} are too few or too alike for GPTQ with damping "
                f"{self.scheme.damping}; use more data or a larger damping"
            ) from None
        except ValueError as error:
            raise QuantizeError(f"{self.layer.name!r} cannot be rounded to {to!r}: {error}") from None
        square = squared_error(matrix, torch.zeros_like(matrix), hessian)
        if square > 0:
            self.nearest = squared_error(matrix, apart, hessian) / square
            self.error = squared_error(matrix, rounded, hessian) / square
        self.reason = ""
        return rounded


def _carry_out(
    model: nn.Module,
    jobs: dict[nn.Module, _Job],
    batches: Iterable[Any],
    replace: Callable[[Tensor, Tensor], None],
    advance: Callable[[str], None],
) -> None:
    walk = Walk(model, list(jobs), batches)
    for stage in walk.stages:
        watchers = {module: Hessian(module) for module in stage}
        walk.gather(watchers)
        for module in stage:
            job, watcher = jobs[module], watchers.pop(module)  # freed once it was used
            if watcher.seen(job.layer.name):
                replace(job.layer.linear.weight.detach(), job.solved(watcher.total[0]))
                advance(job.layer.name)
    if all(job.reason for job in jobs.values()):
        raise QuantizeError(f"nothing to quantise: of each of {len(jobs)} layers, {_UNREACHED}")


# ---------------------------------------------------------------------------------------------- before and after


def _check_arguments(model: object, config: object, data: object, filter_fn: object) -> None:
    check_model(model, Quantizing.verb, QuantizeError)
    if isinstance(config, Int4 | Int8):
        raise TypeError(f"config: expected a GPTQ scheme or PerLayer, got {config!r}; write GPTQ({config!r})")
    check_config(config, "quantize_")
    check_filter_fn(filter_fn)
    check_data(data)


def _row(decision: Decision, job: _Job | None) -> QuantizeRow:
    layer = decision.layer
    if job is None or job.reason:
        return QuantizeRow(layer.name, layer.kind, layer.shape, None, 0.0, 0.0, job.reason if job else decision.reason)
    return QuantizeRow(layer.name, layer.kind, layer.shape, job.scheme.to, job.nearest, job.error, "")
