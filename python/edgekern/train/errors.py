"""What can go wrong in training."""

from __future__ import annotations


class TrainError(ValueError):
    """A training cannot begin, go on, or be resumed. Before it begins, nothing has changed."""
