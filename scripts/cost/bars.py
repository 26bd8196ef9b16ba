"""What a hot loop may cost at most: bars that always hold, and no more than what is committed."""

from __future__ import annotations

from typing import Any

TOLERANCE = 1.01
INSTRUCTIONS_PER_MAC = {("neon", "gemm"): 0.300, ("neon_dotprod", "gemm"): 0.085, ("neon_i8mm", "gemm"): 0.050}
LOADS_PER_16_WEIGHTS = 1.2  # gemv: one load of 16 weights and a little for the activations
# In one pass. int4's gemm multiplies weights that were unpacked onto the stack, a group at a time: those loads alone.
STACK_ACCESSES = {"int4 gemm": 4}
NOT_TO_GROW = (
    "instructions_per_mac",
    "loads_per_16_weights",
    "stack_accesses_per_pass",
    "vector_copies_per_pass",
    "call_instructions_per_mac",
)


def name_of(loop: dict[str, Any]) -> str:
    return f"{loop['isa']} {loop['kernel']}"


def over_the_bars(loops: list[dict[str, Any]]) -> list[str]:
    """A sentence for every figure that is over its bar."""
    problems = []
    for loop in loops:
        bars: dict[str, float] = {"stack_accesses_per_pass": STACK_ACCESSES.get(loop["kernel"], 0)}
        if bar := INSTRUCTIONS_PER_MAC.get((loop["isa"], loop["kernel"])):
            bars["instructions_per_mac"] = bar
        if loop["kernel"] == "gemv":
            bars["loads_per_16_weights"] = LOADS_PER_16_WEIGHTS
        problems += [
            f"{name_of(loop)}: {figure} is {loop[figure]}, the bar is {bar}"
            for figure, bar in bars.items()
            if loop[figure] > bar
        ]
    return problems


def worse_than_committed(loops: list[dict[str, Any]], committed: list[dict[str, Any]]) -> list[str]:
    """A sentence for every figure that grew by more than the tolerance, and for every loop that came or went."""
    before = {name_of(loop): loop for loop in committed}
    now = {name_of(loop): loop for loop in loops}
    problems = [f"{name}: measured or committed, but not both" for name in sorted(before.keys() ^ now.keys())]
    for name in sorted(before.keys() & now.keys()):
        problems += [
            f"{name}: {figure} is {now[name][figure]}, committed is {before[name][figure]}"
            for figure in NOT_TO_GROW
            if figure in before[name] and now[name][figure] > before[name][figure] * TOLERANCE
        ]
    return problems
