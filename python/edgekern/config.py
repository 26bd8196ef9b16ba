"""Schemes and configurations: plain frozen data that says what a layer shall become.

They are checked when made, compare by value, and turn into JSON-ready dictionaries and back. Reading a dictionary looks
its format up in a closed table, so a string from a file can never name something to import.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias


class Scheme:
    """Base of every scheme: how one layer is stored and computed."""

    format: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """This scheme as JSON-ready data: its format and its options."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"format": self.format, **options}


@dataclass(frozen=True)
class Int8(Scheme):
    """Eight-bit weights and activations (W8A8), nothing to calibrate.

    Weights are signed, symmetric, with one float32 scale per output channel. Activations are quantised while the layer
    runs, each row (token) with its own scale and zero point. Sums are exact int32; results have the dtype of the input.
    """

    format: ClassVar[str] = "int8"


@dataclass(frozen=True)
class PerLayer:
    """Different schemes for different layers: ``{name or "re:pattern" or "_default": scheme or None}``.

    For each layer an exact name wins, then the first ``re:`` pattern that matches the whole name, then ``_default``.
    ``None`` leaves a layer alone, and so does having no rule for it.

    Raises:
        TypeError: a key is no string, or a value neither a scheme nor None.
        ValueError: no rules, an empty name, or a pattern that is no regular expression.
    """

    rules: Mapping[str, Scheme | None]

    def __post_init__(self) -> None:
        if not isinstance(self.rules, Mapping):
            raise TypeError(f"PerLayer: rules must be a mapping of names to schemes, got {_kind(self.rules)}")
        if not self.rules:
            raise ValueError('PerLayer: no rules given; PerLayer({"_default": Int8()}) converts every layer')
        for name, scheme in self.rules.items():
            _check_rule(name, scheme)
        object.__setattr__(self, "rules", dict(self.rules))

    def __hash__(self) -> int:
        return hash(tuple(self.rules.items()))

    def to_dict(self) -> dict[str, Any]:
        """These rules as JSON-ready data, in order."""
        rules = {name: scheme and scheme.to_dict() for name, scheme in self.rules.items()}
        return {"format": _PER_LAYER, "rules": rules}


Config: TypeAlias = Scheme | PerLayer

_PER_LAYER = "per_layer"
_SCHEMES: dict[str, type[Scheme]] = {scheme.format: scheme for scheme in (Int8,)}


def config_from_dict(data: Mapping[str, Any]) -> Config:
    """The inverse of ``to_dict`` of any scheme or PerLayer.

    Raises:
        TypeError: not a mapping.
        ValueError: an unknown format, or options that this format does not have.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"config_from_dict: expected a mapping with a 'format', got {_kind(data)}")
    options = dict(data)
    name = options.pop("format", None)
    if name == _PER_LAYER:
        rules = options.pop("rules", None)
        if options or not isinstance(rules, Mapping):
            raise ValueError(f"config_from_dict: format 'per_layer' takes 'rules', a mapping; got {sorted(data)}")
        return PerLayer({key: None if value is None else scheme_from_dict(value) for key, value in rules.items()})
    return scheme_from_dict(data)


def scheme_from_dict(data: Mapping[str, Any]) -> Scheme:
    """The inverse of ``Scheme.to_dict``; raises as ``config_from_dict`` does."""
    if not isinstance(data, Mapping):
        raise TypeError(f"scheme_from_dict: expected a mapping with a 'format', got {_kind(data)}")
    options = dict(data)
    name = options.pop("format", None)
    scheme = _SCHEMES.get(name) if isinstance(name, str) else None
    if scheme is None:
        raise ValueError(f"scheme_from_dict: unknown format {name!r}; this version knows {', '.join(sorted(_SCHEMES))}")
    known = {field.name for field in dataclasses.fields(scheme)}  # type: ignore[arg-type]
    if unknown := sorted(options.keys() - known):
        raise ValueError(f"scheme_from_dict: format {name!r} has no option {', '.join(map(repr, unknown))}")
    return scheme(**options)


def check_config(config: object) -> Config:
    """``config`` itself when it is a scheme or PerLayer; TypeError with the way out when not."""
    if isinstance(config, Scheme | PerLayer):
        return config
    if isinstance(config, type) and issubclass(config, Scheme | PerLayer):
        raise TypeError(f"config: expected a scheme, got the class {config.__name__}; write {config.__name__}(...)")
    if isinstance(config, Mapping):
        raise TypeError("config: expected a scheme or PerLayer, got a mapping; wrap it: PerLayer({...})")
    raise TypeError(f"config: expected a scheme such as Int8() or PerLayer({{...}}), got {_kind(config)}")


def _check_rule(name: object, scheme: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"PerLayer: a rule's key must be a string, got {_kind(name)}")
    if not name or name == "re:":
        raise ValueError(f"PerLayer: {name!r} names no layer; write a layer's name, 're:<pattern>' or '_default'")
    if name.startswith("re:"):
        try:
            re.compile(name.removeprefix("re:"))
        except re.error as error:
            raise ValueError(f"PerLayer: {name!r} is no regular expression: {error}") from None
    if scheme is not None and not isinstance(scheme, Scheme):
        hint = f"; write {scheme.__name__}()" if isinstance(scheme, type) and issubclass(scheme, Scheme) else ""
        raise TypeError(f"PerLayer: the rule for {name!r} must be a scheme, as Int8(), or None, got {scheme!r}{hint}")


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
