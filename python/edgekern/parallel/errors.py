"""What can go wrong between processes. Each of these ends every rank, within a time limit."""

from __future__ import annotations


class ParallelError(RuntimeError):
    """Base of the errors here."""


class StartError(ParallelError):
    """The ranks did not come together."""


class RankMismatchError(ParallelError):
    """Ranks were started with, or were given, different things: a world size, a plan, a checkpoint, weights."""


class RankFailedError(ParallelError):
    """Another rank raised; the message has what it said."""


class RankLostError(ParallelError):
    """Another rank died, is silent or cannot be reached."""
