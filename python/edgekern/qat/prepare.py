"""``prepare_qat_`` and ``undo_qat_``: making a model's layers train for what they will be converted to."""

from __future__ import annotations

from torch import nn

from edgekern.config import Config, Int4, Int8, PerLayer, check_config
from edgekern.nn.qat_linear import QATLinear, become_float_, become_qat_, untrainable
from edgekern.nn.swap import settle, uninterrupted
from edgekern.plan import FilterFn, check_filter_fn, check_model, plan
from edgekern.qat.report import QATReport, QATRow
from edgekern.qat.task import Preparing, QATError


def prepare_qat_(model: nn.Module, config: Config, filter_fn: FilterFn | None = None) -> QATReport:
    """Has the linear layers of ``model`` compute, and train, with the rounding that ``convert_`` will give them.

    That is quantisation-aware training: in each call weights and activations are rounded as the native kernels round
    them, and gradients pass as if they were not; see ``edgekern.nn.QATLinear``. ``convert_(model, config)`` after
    training then stores the integers that the model has computed with, and gives the same results but for the order of
    float32 sums.

    The layers stay the modules they are, with another class: parameters and their names, hooks, optimizers that hold
    the parameters, and checkpoints of the float model go on working. In all of that nothing is stored but floats.
    Weights that are zero are rounded to zero; ``MaskLock`` keeps them there.

    Left alone, each with its reason in the report: what ``convert_`` would leave alone.

    Args:
        model: any module that holds layers, or a layer.
        config: ``Int8()`` or ``Int4(...)`` for every layer, or ``PerLayer`` with them; the same as for ``convert_``
            later. Activations have to be dynamic. Of a layer that is prepared already, the same scheme changes nothing.
        filter_fn: called as ``filter_fn(module, name)`` for each linear layer; false leaves it alone.

    Returns:
        What became of every linear and 2-d convolution layer, and the configuration to convert by.

    Raises:
        TypeError: an argument of another type, or a scheme without rounding to train for.
        QATError: a weight that holds NaN or infinity; a rule for a layer that does not exist or cannot be prepared;
            rules at odds over a layer with several names; nothing to prepare at all.
    """
    check_model(model, Preparing.verb, QATError)
    for scheme in config.rules.values() if isinstance(config, PerLayer) else (check_config(config),):
        if scheme is not None and (reason := untrainable(scheme)):
            raise TypeError(
                f"config: prepare_qat_ takes Int8() and Int4(...), alone or in PerLayer; got {scheme!r}{reason}"
            )
    check_filter_fn(filter_fn)
    decisions = plan(model, config, filter_fn, Preparing())
    rows = []
    with uninterrupted():
        for decision in decisions:
            layer = decision.layer
            to = decision.scheme if isinstance(decision.scheme, Int4 | Int8) else None
            if to is not None:
                become_qat_(layer.linear, to)
            rows.append(QATRow(layer.name, layer.kind, layer.shape, to, decision.reason))
        settle(model)
    return QATReport(tuple(rows))


def undo_qat_(model: nn.Module) -> None:
    """Makes the layers that ``prepare_qat_`` has prepared what they were; their weights stay as they have trained.

    Raises:
        TypeError: not a module.
    """
    check_model(model, "change", QATError)
    with uninterrupted():
        for module in model.modules():
            if isinstance(module, QATLinear):
                become_float_(module)
        settle(model)
