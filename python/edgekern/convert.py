"""``convert_``, ``dense_`` and ``explain``: swapping a model's layers in place, all of them or none."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekern import kernels
from edgekern.calibration.errors import data_errors_as
from edgekern.calibration.images import images_for
from edgekern.calibration.observe import check_data
from edgekern.calibration.ranges import Ranges, ranges_for
from edgekern.config import Config, Scheme, check_config
from edgekern.nn import NATIVE_EMBEDDINGS, NativeConv2d, NativeEmbedding, NativeLayer, NativeLinear, QATLinear
from edgekern.nn.conv_forms import Images
from edgekern.nn.embedding import in_rows
from edgekern.nn.forms import LEAST_ZEROS, Choice
from edgekern.nn.huge_pages import gather_weights_
from edgekern.nn.layers import Layer, find_layers, objection, obstacle, tied_weights
from edgekern.nn.memory import part_of_a_model
from edgekern.nn.schemes import empty_native, weight_bytes_as
from edgekern.nn.swap import replace, return_freed_memory, settle, uninterrupted
from edgekern.nn.tables import holders_of, is_tied
from edgekern.plan import Conversion, ConvertError, Decision, FilterFn, check_filter_fn, check_model, plan
from edgekern.summary import DENSE, LayerRow, Report

_LEFT_ALONE = "_edgekern_left_alone"


@data_errors_as(ConvertError)
def convert_(
    model: nn.Module,
    config: Config,
    filter_fn: FilterFn | None = None,
    *,
    data: Iterable[Any] | None = None,
    progress: bool = True,
) -> Report:
    """Replaces layers of ``model`` by native ones, in place: all that ``config`` asks for, or none.

    These are its linear and 2-d convolution layers, and of its embedding tables those that a rule names or matches.
    Where a table and the output head are one weight, a rule for either converts both, to one packed copy; the most
    direct rule counts, and ``None`` for one leaves both alone.

    Everything is checked and all memory is set aside before the first layer changes, so an exception leaves the model
    as it was. While layers change, each original is freed in turn and Ctrl-C waits. Converted layers are for inference.
    Layers that ``prepare_qat_`` has prepared become what they have trained for.

    Where a scheme has static activations (``Int8(activations="static")``) the model runs on ``data`` first, as it is,
    in one pass in which every such layer's inputs are looked at; see ``calibration/ranges.py``. Where forms of pruned
    convolutions are to be measured, that is done with images of the size that the first batch brings them.

    Left alone, each with its reason in the report: layers without a rule or with the rule None, those ``filter_fn``
    declines, subclasses with a forward of their own, parametrised, pruned, lazy, meta, sparse or quantised layers,
    other devices and dtypes, tables with ``max_norm``, ``sparse`` or ``scale_grad_by_freq`` and those of
    ``nn.EmbeddingBag``, and, unless a rule names or matches them, embedding tables, layers whose weight another module
    shares and, where weights would be rounded, the output head ``lm_head``. ``Float32()`` and ``Float16()`` leave
    every layer alone that they would not make faster and smaller, with the measured times in the report; ``Float16()``
    all convolutions, as ``activations="float"`` does. ``Int4()`` and ``Float32()`` leave depthwise convolutions alone,
    and ``Int4()`` with static activations linear layers. A bias that holds NaN or infinity stands in the way of
    all but an int8 linear layer. Static activations leave alone what the data never reach, or give nothing but zeros.

    Args:
        model: any module that holds layers; a single nn.Linear has no place to be replaced in.
        config: one scheme for every layer, or ``PerLayer``.
        filter_fn: called as ``filter_fn(module, name)`` for each linear and convolution layer; false leaves it alone.
        data: for static activations, and for the size of images: batches to run the model on, in eval mode and without
            autograd, once; the first one twice for both. A mapping is passed as keyword arguments, a tuple or list as
            positional ones, anything else as the only one.
        progress: shows a progress bar while data are used.

    Returns:
        What became of every linear and 2-d convolution layer and every embedding table.

    Raises:
        TypeError: an argument of another type.
        ConvertError: a weight that holds NaN or infinity, or what its scheme cannot; a rule for a layer that does not
            exist or cannot be converted, rules at odds over a layer with several names, a layer prepared to train for
            another scheme, or nothing to convert at all; data missing where a scheme needs them, empty, or giving NaN.
    """
    check_convertible(model)
    check_config(config)
    check_filter_fn(filter_fn)
    check_data(data)
    decisions = plan(model, config, filter_fn)
    images, data = images_for(model, decisions, data)
    ranges = ranges_for(model, decisions, data, progress=progress)
    with part_of_a_model(sum(map(bytes_of, decisions))):
        steps, left_alone = _prepare(decisions, ranges, images)
        del decisions  # it holds the originals, which are to be freed one by one
        _commit(model, steps)
    gather_weights_(model)
    return report_on(model, left_alone)


def report_on(model: nn.Module, left_alone: Mapping[str, LeftAlone]) -> Report:
    """What became of every layer; the model keeps why layers were left alone, by name, for ``explain``."""
    layers = find_layers(model, tables=True)
    setattr(model, _LEFT_ALONE, {layer.name: left_alone[layer.name] for layer in layers if not layer.native})
    holders = holders_of(layers)
    rows = (_rows(layer, left_alone.get(layer.name, LeftAlone("")), holders.get(layer.module, "")) for layer in layers)
    return Report(tuple(row for each in rows for row in each))


def convert_layer_(model: nn.Module, layer: Layer, scheme: Scheme, tables: Sequence[Layer] = ()) -> LeftAlone | None:
    """Converts one layer of ``model`` whose weights have been checked; why it was left alone instead, if it was.

    ``tables`` are those that are to read its weights.
    """
    steps = _reserve(layer, scheme, tables, {}, {})
    if isinstance(steps, LeftAlone):
        return steps
    _commit(model, steps)
    return None


def dense_(model: nn.Module) -> Report:
    """Replaces every native layer of ``model`` by what it was, with its dequantised weights, in place: all or none.

    The weights have the dtype they had before conversion, and the values they were rounded to. A layer that applies an
    activation becomes a ``FusedLinear`` or ``FusedConv2d``.

    Returns:
        One row for each native layer.

    Raises:
        TypeError: not a module.
        ConvertError: a single layer.
    """
    check_convertible(model)
    layers = [layer for layer in find_layers(model, tables=True) if layer.native]
    holders = holders_of(layers)
    rows = [
        _row(layer, layer.name, DENSE, native.packed_bytes, 0 if layer.module in holders else layer.dense_bytes, "")
        for layer in layers
        if (native := layer.native)
    ]
    steps = _dense_layers(layers)
    with uninterrupted():
        for layer, dense in steps:
            replace(layer, dense)
        settle(model)
        vars(model).pop(_LEFT_ALONE, None)
    return Report(tuple(rows))


def _dense_layers(layers: Sequence[Layer]) -> list[tuple[Layer, nn.Module]]:
    """Each native layer, and the dense one for it; a table that is tied shares the weight of the other's again."""
    weights: dict[nn.Module, nn.Parameter] = {}
    made: dict[Layer, nn.Module] = {}
    for layer in sorted(layers, key=is_tied):  # stable, and False comes first
        if isinstance(native := layer.native, NativeEmbedding):
            dense: nn.Module = native.dense(weights.get(native.table) if native.tied else None)
            weights.setdefault(native.table, cast(nn.Parameter, dense.weight))
        else:
            assert native is not None
            dense = native.dense()
            weights[native] = cast(nn.Parameter, dense.weight)
        made[layer] = dense
    return [(layer, made[layer]) for layer in layers]


def explain(model: nn.Module) -> Report:
    """What each linear and 2-d convolution layer and embedding table of ``model`` runs on, and why the dense are dense.

    Works on a model before and after conversion, and on a loaded one. The size before of a native layer is that of the
    dense layer it came from. A table that shares its weight with another layer takes no bytes: they are that layer's.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    remembered = vars(model).get(_LEFT_ALONE, {})
    ties = tied_weights(model)

    def reason(layer: Layer) -> LeftAlone:
        if layer.native:
            return LeftAlone("")
        if isinstance(layer.module, QATLinear):
            return LeftAlone(f"prepared to train for {layer.module.scheme!r}; convert_ finishes it")
        known = remembered.get(layer.name)
        return known or LeftAlone(obstacle(layer) or objection(layer, ties) or "not converted")

    layers = find_layers(model, tables=True)
    holders = holders_of(layers)
    rows = (_rows(layer, reason(layer), holders.get(layer.module, "")) for layer in layers)
    return Report(tuple(row for each in rows for row in each))


@dataclass(frozen=True)
class LeftAlone:
    """Why a layer was not converted. A model keeps these for ``explain``."""

    reason: str
    choice: Choice = field(default_factory=Choice)
    """What was measured to decide it, if anything was."""


# ---------------------------------------------------------------------------------------------- carrying it out


@dataclass
class _Step:
    """A layer, what replaces it, and the memory for that."""

    layer: Layer
    native: NativeLayer | NativeEmbedding
    packed: Tensor


def bytes_of(decision: Decision) -> int:
    """What a layer's weights would take if none were left out; nothing where it is left alone."""
    if decision.scheme is None or decision.owner is not None:
        return 0
    return weight_bytes_as(decision.layer, decision.scheme)


def _prepare(
    decisions: list[Decision], ranges: Ranges, images: Mapping[nn.Module, Images]
) -> tuple[list[_Step], dict[str, LeftAlone]]:
    """What to convert, and what not. Nothing else holds the originals afterwards: they are to be freed one by one."""
    steps: list[_Step] = []
    left_alone = {}
    tables: dict[nn.Module, list[Layer]] = {}
    for decision in decisions:
        if decision.owner is not None:
            tables.setdefault(decision.owner.module, []).append(decision.layer)
    for decision in decisions:
        layer, scheme = decision.layer, decision.scheme
        if decision.owner is not None:
            continue
        readers = tables.get(layer.module, [])
        alone = LeftAlone(decision.reason)
        planned = alone if scheme is None else _reserve(layer, scheme, readers, ranges, images)
        if isinstance(planned, LeftAlone):
            left_alone.update({each.name: planned for each in (layer, *readers)})
        else:
            steps += planned
    return steps, left_alone


def _reserve(
    layer: Layer,
    scheme: Scheme,
    tables: Sequence[Layer],
    ranges: Ranges,
    images: Mapping[nn.Module, Images],
) -> list[_Step] | LeftAlone:
    """What to do for a layer, and for the tables that are to read its weights."""
    found = ranges.get(layer.module)
    if isinstance(found, str):
        return LeftAlone(found)
    # Fresh memory costs nothing until it is written, but running out of it shows here, while the model is whole.
    try:
        native = empty_native(layer, in_rows(scheme) if tables else scheme)
        if found is not None and isinstance(native, NativeLayer):
            native.input_range = found
        if isinstance(native, NativeConv2d):
            native.images = images.get(layer.module)
        packed, reason = native.reserve(layer.linear.weight, getattr(layer.linear, "bias", None))
    except ValueError as error:
        raise ConvertError(f"layer {layer.name!r} cannot be {scheme.format}: {error}") from None
    if reason:
        return LeftAlone(reason, native.choice)
    steps = [_Step(layer, native, packed)]
    for table in tables:
        weights = cast(NativeLinear, native.table if isinstance(native, NativeEmbedding) else native)
        reader = NATIVE_EMBEDDINGS[scheme.format].like(cast(nn.Embedding, table.module), None, weights)
        steps.append(_Step(table, reader, packed))
    return steps


def _commit(model: nn.Module, steps: list[_Step]) -> None:
    """Packs and swaps layer by layer. ``steps`` is used up, so that nothing here keeps an original alive."""
    largest = max((step.layer.dense_bytes for step in steps), default=0)
    scratch = torch.empty(largest, dtype=torch.uint8, device="cpu")  # proves that one layer's temporaries have room
    with uninterrupted():
        del scratch
        freed = 0
        while steps:
            step = steps.pop(0)
            step.native.take_(step.layer.linear.weight, getattr(step.layer.linear, "bias", None), step.packed)
            replace(step.layer, step.native)
            freed += step.layer.dense_bytes
            del step
            if freed >= largest:  # keeps the peak within the original and two layers
                return_freed_memory()
                freed = 0
        settle(model)
    return_freed_memory()


def check_convertible(model: object) -> None:
    """TypeError or ConvertError unless it is a module whose layers can be replaced."""
    check_model(model, Conversion.verb, ConvertError)
    if isinstance(model, (nn.Linear, nn.Conv2d, nn.Embedding, NativeEmbedding, NativeLayer)):
        raise ConvertError(
            f"model: a single {type(model).__name__} has no parent to be replaced in; "
            "wrap it: model = torch.nn.Sequential(layer)"
        )


# ---------------------------------------------------------------------------------------------- rows of the table


def _rows(layer: Layer, alone: LeftAlone, holder: str) -> Iterator[LayerRow]:
    """Rows of a layer as it is. ``holder`` names the layer that its weight is counted at, where that is another."""
    before = 0 if holder else layer.dense_bytes
    after = layer.native.packed_bytes if layer.native else before
    layer_format = layer.native.format if layer.native else DENSE
    row = _row(layer, layer.name, layer_format, before, after, alone.reason)
    if holder and layer.native:
        row = dataclasses.replace(row, packing=f"that of {holder!r}")
    yield row if layer.native else _with_choice(row, alone.choice)
    yield from _alias_rows(layer, layer_format)


def _alias_rows(layer: Layer, layer_format: str) -> Iterator[LayerRow]:
    for name in layer.names[1:]:
        yield _row(layer, name, layer_format, 0, 0, f"the same module as {layer.name!r}")


def _row(layer: Layer, name: str, layer_format: str, before: int, after: int, reason: str) -> LayerRow:
    row = LayerRow(name, layer.kind, layer.shape, layer_format, "", "", before, after, reason)
    if layer_format == DENSE or layer.native is None:
        return row
    names, choice = layer.native.kernels, layer.native.choice
    packing = choice.describe() if choice.zeros >= LEAST_ZEROS else choice.form
    isa = kernels.default_isa() if names else ""
    activations = layer.native.activations if isinstance(layer.native, NativeLayer) else ""
    row = dataclasses.replace(row, kernel=" / ".join(names), isa=isa, packing=packing, activations=activations)
    return _with_choice(row, choice)


def _with_choice(row: LayerRow, choice: Choice) -> LayerRow:
    """The row with what was measured."""
    timings = tuple((timing.form, timing.rows, timing.seconds) for timing in choice.timings)
    return dataclasses.replace(row, zeros=choice.zeros, timings=timings)
