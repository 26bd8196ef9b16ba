"""The CPU, and the kernels that were built for it."""

from __future__ import annotations

from typing import TypedDict

from edgekern._lib import core


class Isa(TypedDict):
    """One kernel family: its name, whether this CPU runs it, and the CPU features it lacks if not."""

    name: str
    supported: bool
    missing: list[str]


class Cpu(TypedDict):
    """The CPU's brand string and the features that kernels are chosen by."""

    name: str
    features: list[str]


def isas() -> list[Isa]:
    """Every ISA compiled into this build, best first."""
    return core.isas()


def default_isa() -> str:
    """The ISA that runs when none is asked for."""
    return core.default_isa()


def cpu() -> Cpu:
    """The CPU this process runs on."""
    return core.cpu()
