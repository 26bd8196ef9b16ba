"""Configurations from dictionaries.

A format is looked up in a closed table, so a string from a file can never name something to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekern.config.calibrated import AWQ, GPTQ, SmoothQuant
from edgekern.config.checks import check_options, kind_of
from edgekern.config.formats import Float16, Float32, Int4, Int8
from edgekern.config.per_layer import PER_LAYER, Config, PerLayer
from edgekern.config.prune import Prune
from edgekern.config.scheme import Scheme
from edgekern.config.shrink import Shrink

_SCHEMES: dict[str, type[Scheme]] = {
    scheme.format: scheme for scheme in (Int8, Int4, Float32, Float16, GPTQ, AWQ, SmoothQuant, Prune, Shrink)
}


def config_from_dict(data: Mapping[str, Any]) -> Config:
    """The inverse of ``to_dict`` of any scheme or PerLayer.

    Raises:
        TypeError: not a mapping.
        ValueError: an unknown format, or options that this format does not have.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"config_from_dict: expected a mapping with a 'format', got {kind_of(data)}")
    options = dict(data)
    name = options.pop("format", None)
    if name == PER_LAYER:
        rules = options.pop("rules", None)
        if options or not isinstance(rules, Mapping):
            raise ValueError(f"config_from_dict: format 'per_layer' takes 'rules', a mapping; got {sorted(data)}")
        return PerLayer({key: None if value is None else scheme_from_dict(value) for key, value in rules.items()})
    return scheme_from_dict(data)


def scheme_from_dict(data: Mapping[str, Any]) -> Scheme:
    """The inverse of ``Scheme.to_dict``; raises as ``config_from_dict`` does."""
    if not isinstance(data, Mapping):
        raise TypeError(f"scheme_from_dict: expected a mapping with a 'format', got {kind_of(data)}")
    options = dict(data)
    name = options.pop("format", None)
    scheme = _SCHEMES.get(name) if isinstance(name, str) else None
    if scheme is None:
        raise ValueError(f"scheme_from_dict: unknown format {name!r}; this version knows {', '.join(sorted(_SCHEMES))}")
    check_options(scheme, options, f"scheme_from_dict: format {name!r}")
    return scheme(
        **{key: scheme_from_dict(value) if isinstance(value, Mapping) else value for key, value in options.items()}
    )
