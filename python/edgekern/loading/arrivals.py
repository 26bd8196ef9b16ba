"""Converting each layer of a model as soon as its float weights are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from edgekern.calibration.ranges import needs_range
from edgekern.config import Config, Scheme, check_config
from edgekern.convert import LeftAlone, bytes_of, convert_layer_, report_on
from edgekern.nn.huge_pages import gather_weights_
from edgekern.nn.layers import Layer, obstacle
from edgekern.nn.memory import part_of_a_model
from edgekern.nn.schemes import obstacle_in_scheme
from edgekern.plan import Conversion, ConvertError, Decision, check_finite, plan
from edgekern.summary import Report


class Arrivals:
    """The layers of a model on the meta device that ``config`` converts, each when the last of its tensors arrives.

    Which layers those are is decided at the start, by the rules of ``convert_``. Everything else the model holds is
    the caller's to fill. A float weight is needed no longer than until its layer is packed.

    Args:
        model: built on the meta device.
        config: what ``convert_`` takes.
        tied: parameters that will be one tensor with another once the model is filled, and that other: a checkpoint
            may hold either name.
        keep: whether a layer of a name is wanted; of those that are not, nothing is awaited. None wants all.

    Raises:
        TypeError: not a configuration for ``convert_``.
        ConvertError: as ``convert_``, but for weights that are not finite: that shows when they arrive. A scheme that
            needs calibration data.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        tied: Mapping[str, str] | None = None,
        keep: Callable[[str], bool] | None = None,
    ) -> None:
        self._model = model
        others = {**{source: name for name, source in (tied or {}).items()}, **(tied or {})}
        decisions = plan(model, check_config(config), None, _Awaiting(others), tied)
        if needing := next((each for each in decisions if needs_range(each)), None):
            raise ConvertError(
                f"{needing.scheme!r} for {needing.layer.name!r} needs calibration data, which a model cannot run on "
                "while it is read; read it as floats, then convert_(model, config, data=batches), and adopt_(model, "
                "config) of edgekern.integrations.transformers to save it"
            )
        if keep is not None:  # what shares its weight with a layer that is wanted is wanted too
            wanted = {_holder(each) for each in decisions if any(map(keep, each.layer.names))}
            decisions = [each for each in decisions if _holder(each) in wanted]
        self._left_alone = {each.layer.name: LeftAlone(each.reason) for each in decisions if each.scheme is None}
        self._bytes = sum(map(bytes_of, decisions))
        self._awaited: dict[str, _Awaited] = {}
        self._tied: list[_Awaited] = []
        tables: dict[nn.Module, list[Layer]] = {}
        for decision in decisions:
            if decision.owner is not None:
                tables.setdefault(decision.owner.module, []).append(decision.layer)
        for decision in decisions:
            if decision.scheme is not None and decision.owner is None:
                readers = tables.get(decision.layer.module, [])
                awaited = _Awaited(decision.layer, decision.scheme, readers)
                names = [f"{name}.{part}" for name in decision.layer.names for part in awaited.parts]
                if readers or others.keys() & set(names):
                    self._tied.append(awaited)
                else:
                    self._awaited.update(dict.fromkeys(names, awaited))

    def __contains__(self, name: object) -> bool:
        """Whether :meth:`take` takes a parameter of this name. Those that will be tied are the caller's to fill."""
        return name in self._awaited

    def take(self, name: str, tensor: Tensor) -> None:
        """The values of one parameter that is awaited; with the last of its layer's, the layer is converted.

        Raises:
            ConvertError: another shape than the model's, NaN or infinity, or what else speaks against the layer.
        """
        awaited = self._awaited[name]
        part = name.rpartition(".")[2]
        expected = awaited.parts[part]
        if tensor.shape != expected.shape:
            raise ConvertError(
                f"{name!r} is {list(tensor.shape)} in the checkpoint, {list(expected.shape)} in the model; "
                "they are not of one architecture"
            )
        awaited.arrived[part] = tensor
        if awaited.arrived.keys() == awaited.parts.keys():
            self._convert(awaited)

    def complete(self) -> None:
        """Converts the layers whose weight is tied to another, now that all is there.

        Raises:
            ConvertError: weights never came; the message names them.
        """
        absent = [*self._awaited, *(each.layer.name for each in self._tied if each.layer.linear.weight.is_meta)]
        if absent:
            shown = ", ".join(map(repr, absent[:5]))
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            raise ConvertError(f"the checkpoint has no values for {shown}{more}; it is incomplete, or of another model")
        for awaited in self._tied:
            self._convert(awaited)

    def finish(self) -> Report:
        """Completes a model of which all layers were wanted; what became of each.

        Raises:
            ConvertError: weights never came; the message names them.
        """
        self.complete()
        gather_weights_(self._model)
        return report_on(self._model, self._left_alone)

    def _convert(self, awaited: _Awaited) -> None:
        layer = awaited.layer
        while awaited.arrived:
            part, tensor = awaited.arrived.popitem()
            layer.linear._parameters[part] = nn.Parameter(tensor, requires_grad=False)
            del tensor  # or it would outlive the layer
        if reason := obstacle(layer):
            raise ConvertError(f"{layer.name!r} cannot be converted: {reason}")
        check_finite(layer, awaited.scheme, Conversion())
        with part_of_a_model(self._bytes):
            left_alone = convert_layer_(self._model, layer, awaited.scheme, awaited.tables)
        if left_alone is not None:
            self._left_alone.update({each.name: left_alone for each in (layer, *awaited.tables)})
        self._awaited = {name: other for name, other in self._awaited.items() if other is not awaited}


@dataclass(eq=False)
class _Awaited:
    """A layer, and what has come of it."""

    layer: Layer
    scheme: Scheme
    tables: Sequence[Layer]
    """Those that are to read its weights."""
    arrived: dict[str, Tensor] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Tensor]:
        """Its weight and, when it has one, its bias: on the meta device before they come."""
        return _values(self.layer.linear)


class _Awaiting(Conversion):
    """The task of ``convert_`` on a model without values, whose parameters are not tied yet."""

    def __init__(self, tied: Mapping[str, str]) -> None:
        self._tied = tied

    def obstacle(self, layer: Layer, scheme: Scheme) -> str:
        return obstacle_in_scheme(layer, scheme) or obstacle(layer, awaited=True)

    def objection(self, layer: Layer, ties: dict[nn.Module, str], scheme: Scheme) -> str:
        other = next((self._tied[key] for name in layer.names if (key := f"{name}.weight") in self._tied), None)
        return super().objection(layer, ties if other is None else {**ties, layer.module: other}, scheme)


def _holder(decision: Decision) -> nn.Module:
    """The layer whose weights it is about."""
    return (decision.owner or decision.layer).module


def _values(linear: nn.Linear) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in linear._parameters.items() if tensor is not None}
