"""``PerLayer``: different schemes for different layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from edgekern.config.checks import kind_of
from edgekern.config.scheme import Scheme

PER_LAYER = "per_layer"
"""In place of a scheme's format."""


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
            raise TypeError(f"PerLayer: rules must be a mapping of names to schemes, got {kind_of(self.rules)}")
        if not self.rules:
            raise ValueError('PerLayer: no rules given; PerLayer({"_default": Int8()}) converts every layer')
        for name, scheme in self.rules.items():
            _check_rule(name, scheme)
        object.__setattr__(self, "rules", dict(self.rules))

    def __hash__(self) -> int:
        return hash(tuple(self.rules.items()))

    def to_dict(self, *, whole: bool = False) -> dict[str, Any]:
        """These rules as JSON-ready data, in order; ``whole`` as for ``Scheme.to_dict``."""
        rules = {name: scheme and scheme.to_dict(whole=whole) for name, scheme in self.rules.items()}
        return {"format": PER_LAYER, "rules": rules}


Config: TypeAlias = Scheme | PerLayer


def check_config(config: object, taker: str = "convert_") -> Config:
    """``config`` itself when it is a scheme or PerLayer that ``taker`` takes; TypeError with the way out when not."""
    if isinstance(config, Scheme | PerLayer):
        for scheme in config.rules.values() if isinstance(config, PerLayer) else (config,):
            if scheme is not None and scheme.carried_out_by != taker:
                raise TypeError(f"config: {type(scheme).__name__} is for {scheme.carried_out_by}, not for {taker}")
        return config
    if isinstance(config, type) and issubclass(config, Scheme | PerLayer):
        raise TypeError(f"config: expected a scheme, got the class {config.__name__}; write {config.__name__}(...)")
    if isinstance(config, Mapping):
        raise TypeError("config: expected a scheme or PerLayer, got a mapping; wrap it: PerLayer({...})")
    raise TypeError(f"config: expected a scheme such as Int8() or PerLayer({{...}}), got {kind_of(config)}")


def needing_data(config: Config) -> Scheme | None:
    """A scheme of ``config`` that takes calibration data to carry out; None when there is none."""
    return next((scheme for scheme in schemes_in(config) if scheme.needs_data), None)


def schemes_in(config: Config) -> tuple[Scheme, ...]:
    """Every scheme of ``config``."""
    rules = config.rules.values() if isinstance(config, PerLayer) else (config,)
    return tuple(scheme for scheme in rules if scheme is not None)


def _check_rule(name: object, scheme: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"PerLayer: a rule's key must be a string, got {kind_of(name)}")
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
