"""Schemes and configurations: plain frozen data that says what a layer shall become.

They are checked when made, compare by value, and turn into JSON-ready dictionaries and back.
"""

from __future__ import annotations

from edgekern.config.calibrated import AWQ, GPTQ, Calibrated, Migrating, SmoothQuant
from edgekern.config.fit import OPTIMIZERS, SCHEDULERS, WARMED_UP, EarlyStop, FitConfig
from edgekern.config.formats import DYNAMIC, FLOAT, STATIC, Float16, Float32, Int4, Int8
from edgekern.config.gradual import AGP, at_share
from edgekern.config.per_layer import Config, PerLayer, check_config, needing_data, schemes_in
from edgekern.config.prune import CALIBRATED_METHODS, PRUNE_METHODS, PRUNE_SCOPES, Prune, parse_pattern
from edgekern.config.read import config_from_dict, scheme_from_dict
from edgekern.config.recipe import Recipe, Text, read_recipe, write_recipe
from edgekern.config.scheme import MEASURED, Scheme
from edgekern.config.shrink import SHRINK_METHODS, SHRINK_SCOPES, Shrink
from edgekern.config.stage import Stage
from edgekern.config.stages import STAGES, ConvertStage, EvaluateStage, PruneStage, QuantizeStage
from edgekern.config.toml_file import read_config, write_config
from edgekern.config.training_stages import DistilStage, FineTuneStage

__all__ = [
    "AGP",
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
    "STAGES",
    "STATIC",
    "WARMED_UP",
    "Calibrated",
    "Config",
    "ConvertStage",
    "DistilStage",
    "EarlyStop",
    "EvaluateStage",
    "FineTuneStage",
    "FitConfig",
    "Float16",
    "Float32",
    "Int4",
    "Int8",
    "Migrating",
    "PerLayer",
    "Prune",
    "PruneStage",
    "QuantizeStage",
    "Recipe",
    "Scheme",
    "Shrink",
    "SmoothQuant",
    "Stage",
    "Text",
    "at_share",
    "check_config",
    "config_from_dict",
    "needing_data",
    "parse_pattern",
    "read_config",
    "read_recipe",
    "scheme_from_dict",
    "schemes_in",
    "write_config",
    "write_recipe",
]
