"""How the weights of a layer are stored, and which of our schemes multiplies them.

The words are those of compressed-tensors: ``config.json`` has a description of the weights and one of the activations,
with ``num_bits``, ``type``, ``symmetric``, ``strategy`` (over what a scale goes), ``group_size`` and ``dynamic``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekern.checkpoint.errors import CheckpointFormatError
from edgekern.config import DYNAMIC, FLOAT, STATIC, Int4, Int8, Scheme
from edgekern.kernels import INT4_GROUP_SIZES

PACKED = "pack-quantized"
PLAIN = "int-quantized"
# "naive-quantized" is an older name of the plain layout, for integers and floats alike.
_LAYOUTS = {PACKED: True, PLAIN: False, "naive-quantized": False}

WAY_OUT = (
    "with the package compressed-tensors, transformers reads it as floats, which convert_ takes: "
    "from_pretrained(folder, quantization_config=CompressedTensorsConfig(dequantize=True))"
)

# What describes weights or activations, and what each key may be; the last four say how values were found.
_KINDS: dict[str, tuple[type, ...]] = {
    "num_bits": (int,),
    "type": (str,),
    "symmetric": (bool,),
    "group_size": (int,),
    "strategy": (str,),
    "block_structure": (list, str),
    "dynamic": (bool, str),
    "actorder": (str, bool),
    "scale_dtype": (str,),
    "zp_dtype": (str,),
    "observer": (str,),
    "observer_kwargs": (dict,),
}


@dataclass(frozen=True)
class StoredAs:
    """Integer weights that our kernels multiply as they are."""

    bits: int
    """4 or 8."""
    packed: bool
    """Whether values are stored side by side in int32 words, or one an int8."""
    strategy: str
    """What shares a scale: ``"group"``, ``"channel"`` or ``"tensor"``."""
    group_size: int | None
    """Neighbouring input features of a group; a multiple of 32."""
    symmetric: bool
    """Whether there are no zero points."""
    activations: str
    """What they are multiplied by, as our schemes have it."""
    static: bool = False
    """Whether a scale of the activations is stored with them, one for all."""
    centred: bool = False
    """Whether those have no zero point."""

    @property
    def scheme(self) -> Scheme:
        """What multiplies them. Scales over more than our groups are repeated: that changes no value."""
        if self.bits == 8:
            return Int8(activations=self.activations)
        whole = self.group_size or max(INT4_GROUP_SIZES)
        size = max(size for size in INT4_GROUP_SIZES if whole % size == 0)
        return Int4(size, self.symmetric, activations=self.activations)

    def scale_columns(self, in_features: int) -> int:
        """Scales of an output channel."""
        return in_features // self.group_size if self.group_size else 1


def read_scheme(group: Mapping[str, Any], layout: str | None, where: str) -> StoredAs | str:
    """How the weights of a group are stored, or what is in the way of multiplying them.

    Args:
        group: an entry of ``config_groups``.
        layout: the ``format`` that goes for it.
        where: the entry, for errors.

    Raises:
        CheckpointFormatError: not such an entry.
    """
    weights = _arguments(group.get("weights"), f"{where}: weights")
    inputs = _arguments(group.get("input_activations"), f"{where}: input_activations")
    if weights is None:
        return "quantised activations, but weights that are not"
    if group.get("output_activations") is not None:
        return "quantised outputs"
    if reason := _obstacle_in_weights(weights) or _obstacle_in_inputs(inputs, weights):
        return reason
    if layout not in _LAYOUTS:
        return f"weights of the format {layout!r}"
    bits, size = weights["num_bits"], weights.get("group_size")
    group_size = size if _strategy(weights) == "group" else None
    static = inputs is not None and inputs.get("dynamic") is not True
    centred = static and inputs is not None and _symmetric(inputs)
    activations = FLOAT if inputs is None else STATIC if static else DYNAMIC
    how = (_LAYOUTS[layout], _strategy(weights), group_size, _symmetric(weights))
    return StoredAs(bits, *how, activations, static, centred)


def _obstacle_in_weights(weights: Mapping[str, Any]) -> str:
    kind, bits, strategy = weights.get("type", "int"), weights.get("num_bits", 8), _strategy(weights)
    if kind != "int" or bits not in (4, 8):
        return f"weights of {bits} bits of the type {kind!r}; int of 4 or 8 bits are supported"
    if weights.get("dynamic"):
        return "weights that are quantised while it runs"
    if strategy not in ("group", "channel", "tensor"):
        return f"a scale for each {strategy}; by group, channel and tensor is supported"
    if bits == 8 and strategy == "group":
        return f"int8 weights by groups of {weights.get('group_size')}; by channel and tensor is supported"
    if bits == 8 and not _symmetric(weights):
        return "asymmetric int8 weights; symmetric ones are supported, and asymmetric int4"
    size = weights.get("group_size")
    if strategy == "group" and (not size or size < 0 or size % min(INT4_GROUP_SIZES)):
        return f"int4 weights by groups of {size}; groups of 32, 64, 128 and other multiples of 32 are supported"
    return ""


def _obstacle_in_inputs(inputs: Mapping[str, Any] | None, weights: Mapping[str, Any]) -> str:
    if inputs is None:
        return ""
    kind, bits = inputs.get("type", "int"), inputs.get("num_bits", 8)
    if (kind, bits) != ("int", 8):
        return f"activations of {bits} bits of the type {kind!r}; int of 8 bits, or floats, are supported"
    strategy, dynamic = _strategy(inputs), inputs.get("dynamic")
    if isinstance(dynamic, str):
        return (
            f"scales for its activations that are found in the way {dynamic!r}; static and dynamic ones are supported"
        )
    if not dynamic and weights["num_bits"] != 8:
        return "static scales for its activations, and int4 weights; these run with such as are found while it runs"
    if not dynamic and strategy != "tensor":
        return f"a static scale for each {strategy} of its activations; one for all (tensor) is supported"
    if strategy not in ("token", "tensor"):
        return f"a scale for each {strategy} of its activations; for each token or tensor is supported"
    return ""


def _symmetric(arguments: Mapping[str, Any]) -> bool:
    return arguments.get("symmetric") is not False  # true where nothing is said


def _strategy(arguments: Mapping[str, Any]) -> str:
    """As it is said, or as the group size implies it."""
    said, size = arguments.get("strategy"), arguments.get("group_size")
    if isinstance(said, str):
        return said.lower()
    return "tensor" if size is None else "channel" if size == -1 else "group"


def _arguments(data: object, where: str) -> dict[str, Any] | None:
    """A description of weights or activations, without what it says nothing about."""
    if data is None:
        return None
    if not isinstance(data, Mapping):
        raise CheckpointFormatError(f"{where}: expected a mapping, got {type(data).__name__}")
    said = {key: value for key, value in data.items() if value is not None}
    for key, value in said.items():
        if key not in _KINDS:
            raise CheckpointFormatError(f"{where}: no such option as {key!r}; known are {', '.join(_KINDS)}")
        if not isinstance(value, _KINDS[key]) or (isinstance(value, bool) and bool not in _KINDS[key]):
            expected = " or ".join(kind.__name__ for kind in _KINDS[key])
            raise CheckpointFormatError(f"{where}: {key} must be {expected}, got {value!r}")
    return {**said, "num_bits": said.get("num_bits", 8)}
