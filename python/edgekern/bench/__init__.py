"""Measuring how long a model takes, and where the machine has a sensor, how much energy."""

from __future__ import annotations

from edgekern.bench.decode import decode_in_turns
from edgekern.bench.joules import Joules
from edgekern.bench.latency import BenchResult, bench
from edgekern.bench.tokens import TokenCosts, token_costs, token_rates

__all__ = ["BenchResult", "Joules", "TokenCosts", "bench", "decode_in_turns", "token_costs", "token_rates"]
