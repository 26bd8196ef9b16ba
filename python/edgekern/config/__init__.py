"""Schemes and configurations: plain frozen data that says what a layer shall become.

They are checked when made, compare by value, and turn into JSON-ready dictionaries and back.
"""

from __future__ import annotations

from edgekern.config.calibrated import AWQ, GPTQ, Calibrated, Migrating, SmoothQuant
from edgekern.config.fit import OPTIMIZERS, SCHEDULERS, WARMED_UP, EarlyStop, FitConfig
from edgekern.config.formats import DYNAMIC, FLOAT, STATIC, Float16, Float32, Int4, Int8
from edgekern.config.per_layer import Config, PerLayer, check_config, needing_data
from edgekern.config.prune import CALIBRATED_METHODS, PRUNE_METHODS, PRUNE_SCOPES, Prune, parse_pattern
from edgekern.config.read import config_from_dict, scheme_from_dict
from edgekern.config.scheme import MEASURED, Scheme
from edgekern.config.shrink import SHRINK_METHODS, SHRINK_SCOPES, Shrink
from edgekern.config.toml_file import read_config, write_config

__all__ = [
    "AWQ",
    "CALIBRATED_METHODS",
    "DYNAMIC",
    "FLOAT",
    "GPTQ",
    "MEASURED",
    "OPTIMIZERS",
    "PRUNE_METHODS",
    "PRUNE_SCOPES",
    "SCHEDULERS",
    "SHRINK_METHODS",
    "SHRINK_SCOPES",
    "STATIC",
    "WARMED_UP",
    "Calibrated",
    "Config",
    "EarlyStop",
    "FitConfig",
    "Float16",
    "Float32",
    "Int4",
    "Int8",
    "Migrating",
    "PerLayer",
    "Prune",
    "Scheme",
    "Shrink",
    "SmoothQuant",
    "check_config",
    "config_from_dict",
    "needing_data",
    "parse_pattern",
    "read_config",
    "scheme_from_dict",
    "write_config",
]
