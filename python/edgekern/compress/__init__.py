"""One recipe in, a compressed model out: stages that prune, distil, train, quantise and evaluate, one by one."""

from __future__ import annotations

from edgekern.compress.comparison import Comparison
from edgekern.compress.data import CompressData
from edgekern.compress.errors import CompressError
from edgekern.compress.recipes import recipe_names, recipe_of
from edgekern.compress.run import Compressed, compress, compress_subject

__all__ = [
    "Comparison",
    "CompressData",
    "CompressError",
    "Compressed",
    "compress",
    "compress_subject",
    "recipe_names",
    "recipe_of",
]
