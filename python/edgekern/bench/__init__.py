"""Measuring how long a model takes."""

from __future__ import annotations

from edgekern.bench.decode import decode_in_turns
from edgekern.bench.latency import BenchResult, bench
from edgekern.bench.tokens import token_rates

__all__ = ["BenchResult", "bench", "decode_in_turns", "token_rates"]
