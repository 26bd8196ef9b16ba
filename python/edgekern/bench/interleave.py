"""Comparing variants of one computation on a machine that others use too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from edgekern.bench.joules import Joules
from edgekern.bench.latency import BenchResult, summarise

_WARMUP_SECONDS = 0.2


def interleave(
    calls: Mapping[str, Callable[[], object]],
    rounds: int = 20,
    turn_seconds: float = 0.1,
    max_seconds: float = 60.0,
    joules: Joules | None = None,
) -> dict[str, BenchResult]:
    """Times several calls in turns, so that a disturbance or a clock that drifts hits all of them alike.

    In every round each variant has one turn: one call that is not timed, to bring its data into the caches, and then
    timed calls for about `turn_seconds`, at least one. Every other round goes through the variants backwards. Energy
    is measured after that, one variant after the other: turns are too short for sensors.

    Args:
        calls: what to time, by name; run as they are, so wrap this in torch.inference_mode() for models.
        rounds: number of rounds.
        turn_seconds: length of one turn.
        max_seconds: no new round begins after this time; one always runs.
        joules: to measure energy with; None leaves it out.

    Returns:
        For each name the latency of one call, in milliseconds, over all rounds, and its joules.

    Raises:
        ValueError: no calls, rounds < 1, or turn_seconds not positive.
    """
    if not calls or rounds < 1 or turn_seconds <= 0:
        raise ValueError(f"expected calls, rounds >= 1, turn_seconds > 0; got {len(calls)}, {rounds}, {turn_seconds}")
    repeats = {name: max(1, round(turn_seconds / _warm_up(call))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    deadline = time.perf_counter() + max_seconds
    for turn in range(rounds):
        if turn and time.perf_counter() > deadline:
            break
        for name in order:
            times[name] += _turn(calls[name], repeats[name])
        order.reverse()
    spent = {name: joules.of_call(call) if joules is not None else None for name, call in calls.items()}
    return {name: summarise(found, torch.get_num_threads(), spent[name]) for name, found in times.items()}


def _warm_up(call: Callable[[], object]) -> float:
    """Calls at least twice; returns the seconds of one call, the first left out."""
    call()
    start, count = time.perf_counter(), 0
    while True:
        call()
        count += 1
        elapsed = time.perf_counter() - start
        if elapsed >= _WARMUP_SECONDS:
            return elapsed / count


def _turn(call: Callable[[], object], repeats: int) -> list[float]:
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds
