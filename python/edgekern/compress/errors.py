"""What is wrong with a run."""

from __future__ import annotations


class CompressError(ValueError):
    """A run cannot begin, or go on. What its ended stages have written is as it was."""
