"""What images reach a model's convolutions: the size that forms of pruned ones are measured at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor, nn

from edgekern.calibration.observe import arguments, watch
from edgekern.config import MEASURED, Float32, Int8, Scheme
from edgekern.nn.conv_forms import Images
from edgekern.nn.convolution import is_depthwise, options_of
from edgekern.nn.forms import LEAST_ZEROS
from edgekern.nn.layers import CONV
from edgekern.plan import Decision


def images_for(
    model: nn.Module, decisions: Sequence[Decision], data: Iterable[Any] | None
) -> tuple[Mapping[nn.Module, Images], Iterable[Any] | None]:
    """Those that reach each convolution whose form is to be measured, in the first batch; and data to go on with.

    The model runs once, and only where there is such a layer. Of a layer that the batch does not reach nothing is said.
    """
    wanted = [each.layer.module for each in decisions if _is_measured(each)]
    if data is None or not wanted:
        return {}, data
    batches = iter(data)
    found: dict[nn.Module, Images] = {}
    for first in batches:
        watch(model, {module: _look(module, found) for module in wanted}, [arguments(first)])
        # What can be iterated over but once has lost the batch.
        return found, chain([first], batches) if batches is data else data
    return found, data


def _look(module: nn.Module, found: dict[nn.Module, Images]) -> Callable[[Tensor], None]:
    return lambda x: found.update({module: Images.of(x)})


def _measures(scheme: Scheme) -> bool:
    if isinstance(scheme, Float32):
        return scheme.channels == MEASURED
    return isinstance(scheme, Int8) and scheme.form == MEASURED


def _is_measured(decision: Decision) -> bool:
    layer, scheme = decision.layer, decision.scheme
    if scheme is None or layer.kind != CONV or not _measures(scheme) or is_depthwise(options_of(layer.conv)):
        return False
    weight = layer.linear.weight
    return not weight.is_meta and int(weight.count_nonzero()) <= (1 - LEAST_ZEROS) * weight.numel()
