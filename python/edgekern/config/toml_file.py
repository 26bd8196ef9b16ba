"""Configurations as TOML files, for people to write and for the command line to read.

The keys are those of ``to_dict``, and reading goes through the same closed table. In the rules of ``PerLayer`` a
format's name stands for that format with its defaults, and ``"dense"`` for None, which TOML does not have:

    format = "per_layer"

    [rules]
    lm_head = "dense"
    "re:.*mlp.*" = { format = "int8", rows = [1, 128] }
    _default = "int8"
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekern.config.per_layer import PER_LAYER, Config
from edgekern.config.read import config_from_dict

LEFT_DENSE = "dense"
"""What a rule says that leaves a layer alone."""


def read_config(path: str | os.PathLike[str]) -> Config:
    """The configuration in a TOML file.

    Raises:
        ImportError: Python is older than 3.11.
        OSError: the file cannot be read.
        ValueError: it is no TOML, or no configuration: the message names the file, and the key or format.
    """
    try:
        data = read_toml(path)
        rules = data.get("rules")
        if data.get("format") == PER_LAYER and isinstance(rules, Mapping):
            data["rules"] = {name: _rule(name, value) for name, value in rules.items()}
        return config_from_dict(data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        ImportError: Python is older than 3.11.
        OSError: the file cannot be read.
        ValueError: it is no UTF-8, or no TOML.
    """
    try:
        import tomllib
    except ModuleNotFoundError:
        raise ImportError("reading TOML files needs Python 3.11 or newer") from None
    data: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    return data


def write_config(config: Config, path: str | os.PathLike[str]) -> None:
    """Writes what :func:`read_config` reads.

    Raises:
        ImportError: the package tomli-w is not installed.
        OSError: the file cannot be written.
    """
    import tomli_w

    data = config.to_dict()
    if data["format"] == PER_LAYER:
        # Tables throughout: TOML wants what is not a table first, and the order of rules has a meaning.
        data["rules"] = {name: rule or {"format": LEFT_DENSE} for name, rule in data["rules"].items()}
    Path(path).write_text(tomli_w.dumps(data), encoding="utf-8")


def _rule(name: str, value: object) -> object:
    rule = {"format": value} if isinstance(value, str) else value
    if not isinstance(rule, Mapping):
        raise ValueError(f"the rule for {name!r} must be a format's name or a table with one, got {value!r}")
    return None if rule == {"format": LEFT_DENSE} else rule
