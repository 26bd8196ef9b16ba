"""Checkpoints as the package compressed-tensors writes them and vLLM reads them: int4 and int8 weights with scales.

The package itself is not needed. ``scheme.py`` has how the weights of a layer are stored, ``config.py`` what
``config.json`` says of a whole model, ``layout.py`` the bits, and ``files.py`` what the files hold.
"""

from __future__ import annotations

from edgekern.checkpoint.compressed.config import METHOD, CompressedConfig, config_to_dict
from edgekern.checkpoint.compressed.files import StoredTensor, stored_tensors
from edgekern.checkpoint.compressed.layout import Canonical, canonical, parts_of
from edgekern.checkpoint.compressed.scheme import WAY_OUT, StoredAs

__all__ = [
    "METHOD",
    "WAY_OUT",
    "Canonical",
    "CompressedConfig",
    "StoredAs",
    "StoredTensor",
    "canonical",
    "config_to_dict",
    "parts_of",
    "stored_tensors",
]
