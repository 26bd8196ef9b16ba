"""Fusing: batch normalisations and activations that become part of the layer before them."""

from __future__ import annotations

from edgekern.fuse.apply import FuseError, fuse_
from edgekern.fuse.blocks import BlockReport, fuse_blocks_
from edgekern.fuse.frozen import FreezeReport, FreezeRow, freeze
from edgekern.fuse.link import LinkReport, LinkRow, link_
from edgekern.fuse.report import FuseReport, FuseRow

__all__ = [
    "BlockReport",
    "FreezeReport",
    "FreezeRow",
    "FuseError",
    "FuseReport",
    "FuseRow",
    "LinkReport",
    "LinkRow",
    "freeze",
    "fuse_",
    "fuse_blocks_",
    "link_",
]
