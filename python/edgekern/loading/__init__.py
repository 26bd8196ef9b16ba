"""Filling a model on the meta device layer by layer, so that its float weights are never in memory as a whole."""

from __future__ import annotations

from edgekern.loading.arrivals import Arrivals
from edgekern.loading.compressed import CompressedLayers, compressed_settings
from edgekern.loading.folder import load_part_of_folder
from edgekern.loading.pages import MappedFiles
from edgekern.loading.shards import checksum_of_folder
from edgekern.loading.stored import StoredLayers, records_from_data, records_of, records_to_data

__all__ = [
    "Arrivals",
    "CompressedLayers",
    "MappedFiles",
    "StoredLayers",
    "checksum_of_folder",
    "compressed_settings",
    "load_part_of_folder",
    "records_from_data",
    "records_of",
    "records_to_data",
]
