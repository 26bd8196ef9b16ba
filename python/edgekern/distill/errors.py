"""What can go wrong in distillation."""

from __future__ import annotations


class DistillError(ValueError):
    """Models or data that do not go together. Nothing has changed."""
