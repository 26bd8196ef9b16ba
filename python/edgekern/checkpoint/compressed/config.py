"""``quantization_config`` of a ``config.json``: which layers are stored how.

Data only. What it says is looked up in closed tables; nothing in it is imported, executed, or taken as a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekern.checkpoint.compressed.scheme import PACKED, PLAIN, WAY_OUT, StoredAs, read_scheme
from edgekern.checkpoint.errors import CheckpointFormatError, CheckpointUnsupportedError
from edgekern.config import FLOAT, STATIC, Int4, Int8, Scheme

METHOD = "compressed-tensors"
_MIXED = "mixed-precision"
_PATTERN = "re:"
# Keys that change nothing about the weights: who wrote it, how small it got, how others are to run it, and how far the
# quantising had come, where "frozen" is said of integers too: the files show whether there are any.
_NO_MATTER = {
    "quant_method",
    "quantization_status",
    "version",
    "global_compression_ratio",
    "run_compressed",
    "dequantize",
    "use_optimized_inference",
}
_KNOWN = {"config_groups", "format", "ignore"}


@dataclass(frozen=True)
class Group:
    """Layers that are stored alike."""

    name: str
    targets: tuple[str, ...]
    """Names, ``re:`` and a pattern for the beginning of a name, or names of classes."""
    stored: StoredAs | str
    """How, or what is in the way of multiplying them."""


@dataclass(frozen=True)
class CompressedConfig:
    """What is stored how."""

    groups: tuple[Group, ...]
    ignore: tuple[str, ...]
    """What is left as floats, although it is a target."""

    @classmethod
    def from_dict(cls, data: object) -> CompressedConfig:
        """Reads ``quantization_config``.

        Raises:
            CheckpointFormatError: not such a configuration; the message says where.
            CheckpointUnsupportedError: it is about more than weights.
        """
        if not isinstance(data, Mapping) or data.get("quant_method") != METHOD:
            got = data.get("quant_method") if isinstance(data, Mapping) else type(data).__name__
            raise CheckpointFormatError(f"quantization_config: expected the method {METHOD!r}, got {got!r}")
        _check_nothing_else(data)
        groups = data.get("config_groups")
        if not isinstance(groups, Mapping) or not groups:
            raise CheckpointFormatError("quantization_config: config_groups must be a mapping that is not empty")
        layout = data.get("format")
        read = tuple(_group(name, group, layout) for name, group in groups.items())
        return cls(read, _names(data.get("ignore") or [], "ignore"))

    def with_activations(self, activations: str) -> CompressedConfig:
        """The same, but for what all layers' activations are: as :class:`edgekern.Int4` has it."""

        def changed(group: Group) -> Group:
            stored = group.stored
            return group if isinstance(stored, str) else replace(group, stored=replace(stored, activations=activations))

        return replace(self, groups=tuple(map(changed, self.groups)))

    def stored(self, name: str, classes: Sequence[str]) -> StoredAs | None:
        """How a layer's weights are stored; None where they are floats.

        Exact names come before patterns, and those before classes, as compressed-tensors has it.

        Args:
            name: of the layer.
            classes: names of its class and those it derives from.

        Raises:
            CheckpointUnsupportedError: as no kernel here multiplies them.
        """
        if any(_matches(name, ignored) or ignored in classes for ignored in self.ignore):
            return None
        targets = {target: group for group in self.groups for target in group.targets}
        order = sorted(targets, key=lambda target: (target.startswith(_PATTERN), target))
        found = [target for target in order if _matches(name, target)] + [each for each in order if each in classes]
        if not found:
            return None
        stored = targets[found[0]].stored
        if isinstance(stored, str):
            raise CheckpointUnsupportedError(f"layer {name!r} has {stored}; {WAY_OUT}")
        return stored


def _check_nothing_else(data: Mapping[str, Any]) -> None:
    """Refuses what would change a model's values, and is not about its weights."""
    for key, value in data.items():
        harmless = key in _KNOWN | _NO_MATTER or not value
        if key == "sparsity_config" and isinstance(value, Mapping):
            harmless = value.get("format", "dense") == "dense"
        if key == "transform_config" and isinstance(value, Mapping):
            harmless = not value.get("config_groups")
        if not harmless:
            raise CheckpointUnsupportedError(f"quantization_config: edgekern carries out no {key}; {WAY_OUT}")


def _group(name: str, group: object, layout: object) -> Group:
    where = f"quantization_config: {name}"
    if not isinstance(group, Mapping):
        raise CheckpointFormatError(f"{where}: expected a mapping with targets and weights, got {type(group).__name__}")
    known = {"targets", "weights", "input_activations", "output_activations", "format"}
    if unknown := sorted(key for key in group if key not in known):
        raise CheckpointFormatError(f"{where}: expected {', '.join(sorted(known))}; got {', '.join(unknown)}")
    own = group.get("format") or layout
    if own is not None and not isinstance(own, str):
        raise CheckpointFormatError(f"{where}: format must be a name, got {own!r}")
    return Group(name, _names(group.get("targets"), f"{name}: targets"), read_scheme(group, own, where))


def _names(data: object, where: str) -> tuple[str, ...]:
    if not isinstance(data, Sequence) or isinstance(data, str) or not all(isinstance(each, str) for each in data):
        raise CheckpointFormatError(f"quantization_config: {where} must be a list of names, got {data!r}")
    for name in data:
        if name.startswith(_PATTERN):
            try:
                re.compile(name.removeprefix(_PATTERN))
            except re.error as error:
                raise CheckpointFormatError(
                    f"quantization_config: {where}: {name!r} is no regular expression: {error}"
                ) from None
    return tuple(data)


def _matches(name: str, target: str) -> bool:
    if target.startswith(_PATTERN):
        return re.match(target.removeprefix(_PATTERN), name) is not None
    return name == target


# ------------------------------------------------------------------------------------------------------------ writing


def config_to_dict(layers: Mapping[str, Scheme], ignore: Iterable[str]) -> dict[str, Any]:
    """``quantization_config`` for layers that are stored as :func:`edgekern.checkpoint.compressed.parts_of` makes them.

    Args:
        layers: the schemes, :class:`Int8` or :class:`Int4`, of the layers by name; at least one.
        ignore: names of the other linear layers.
    """
    alike: dict[tuple[tuple[str, Any], ...], list[str]] = {}
    for name, scheme in layers.items():
        alike.setdefault((*_weights(scheme).items(), *(_activations(scheme) or {}).items()), []).append(name)
    groups = {}
    for number, names in enumerate(alike.values()):
        scheme = layers[names[0]]
        layout = layout_of(scheme)
        groups[f"group_{number}"] = {
            "targets": ["Linear"] if len(alike) == 1 else names,
            "weights": _weights(scheme),
            "input_activations": _activations(scheme),
            "output_activations": None,
            # Older versions of the package do not know the key, and need it only where groups differ.
            **({} if len(alike) == 1 else {"format": layout}),
        }
    layouts = {layout_of(scheme) for scheme in layers.values()}
    return {
        "config_groups": groups,
        "format": layouts.pop() if len(layouts) == 1 else _MIXED,
        "global_compression_ratio": None,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "quant_method": METHOD,
        "quantization_status": "compressed",
    }


def layout_of(scheme: Scheme) -> str:
    """The ``format`` that weights of a scheme are written in: packed where they are multiplied by floats.

    So are int4's in any case, as W4A16: few others have kernels for W4A8.
    """
    return PLAIN if isinstance(scheme, Int8) and scheme.activations != FLOAT else PACKED


def _weights(scheme: Scheme) -> dict[str, Any]:
    if isinstance(scheme, Int4):
        own = {"num_bits": 4, "strategy": "group", "group_size": scheme.group_size, "symmetric": scheme.symmetric}
    else:
        own = {"num_bits": 8, "strategy": "channel", "group_size": None, "symmetric": True}
    return {"type": "int", "dynamic": False, **own}


# The preset W8A8 of compressed-tensors, whose activations are symmetric; other readers have kernels for it everywhere.
_ACTIVATIONS = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "group_size": None,
    "strategy": "token",
    "dynamic": True,
}
# With zero points, which their readers have kernels for too: to leave them out would change the values.
_STATIC_ACTIVATIONS = {**_ACTIVATIONS, "symmetric": False, "strategy": "tensor", "dynamic": False}


def _activations(scheme: Scheme) -> dict[str, Any] | None:
    if not isinstance(scheme, Int8) or scheme.activations == FLOAT:
        return None
    return _STATIC_ACTIVATIONS if scheme.activations == STATIC else _ACTIVATIONS
