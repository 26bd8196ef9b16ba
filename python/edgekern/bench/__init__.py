"""Measuring how long a model takes."""

from __future__ import annotations

from edgekern.bench.latency import BenchResult, bench

__all__ = ["BenchResult", "bench"]
