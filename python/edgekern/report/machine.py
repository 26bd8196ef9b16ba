"""The machine, as reports show it."""

from __future__ import annotations

from edgekern.machine import commit_of_checkout, describe_machine

__all__ = ["commit_of_checkout", "describe_machine"]
