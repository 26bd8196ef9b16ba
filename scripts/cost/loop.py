"""The hot loop of a kernel, and what one multiply-add costs in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from objects.aarch64 import VECTOR_COPY
from objects.listing import Function, innermost_loops

from .emulated import Call

# Multiply-adds that one instruction does.
MULTIPLIES = (
    (re.compile(r"^(s|u|us|su)dot v\d+\.4s,"), 16),
    (re.compile(r"^(s|u|us)mmla v\d+\.4s,"), 32),
    (re.compile(r"^[su](mull|mlal|mlsl)2? v\d+\.8h,"), 8),
    (re.compile(r"^[su](mull|mlal|mlsl)2? v\d+\.4s,"), 4),  # of int8 that was widened before
    (re.compile(r"^fmla v\d+\.8h,"), 8),
    (re.compile(r"^fmla v\d+\.4s,"), 4),
)
MOST_OF_IT = 0.95  # a loop with a smaller share of the multiply-adds says too little about the kernel


def macs_of(text: str) -> int:
    return next((macs for pattern, macs in MULTIPLIES if pattern.match(text)), 0)


def loads_of(text: str) -> int:
    """How many registers an instruction loads: two for ldp, as many as it lists for ld1; none for a prefetch."""
    if not text.startswith("ld"):
        return 0
    if listed := re.search(r"\{(.*)\}", text):
        return len(listed[1].split(","))
    return 2 if text.startswith(("ldp ", "ldnp ")) else 1


@dataclass(frozen=True)
class Loop:
    """Sums over one call; divide by `passes` for what one pass of the loop does."""

    function: str
    body: list[tuple[int, str]]
    passes: int
    instructions: int
    macs: float  # those that the call needs; the opcodes may do more, on rows that are not there
    useful_share: float  # of the opcodes' multiply-adds
    loads: int
    stack_accesses: int
    vector_copies: int
    opcodes: Counter[str]

    def figures(self) -> dict[str, Any]:
        """What one pass does, as JSON-ready data."""
        each = self.passes
        return {
            "function": self.function,
            "instructions_per_pass": _tidy(self.instructions / each),
            "macs_per_pass": _tidy(self.macs / each),
            "useful_share_of_macs": _tidy(self.useful_share),
            "instructions_per_mac": round(self.instructions / self.macs, 5),
            "registers_loaded_per_pass": _tidy(self.loads / each),
            "stack_accesses_per_pass": _tidy(self.stack_accesses / each),
            "vector_copies_per_pass": _tidy(self.vector_copies / each),
            "opcodes_per_pass": {name: _tidy(count / each) for name, count in sorted(self.opcodes.items())},
        }


def _tidy(number: float) -> float:
    """A whole number as one, so that files show it as such."""
    return int(number) if number == int(number) else round(number, 4)


def _sum(code: Iterable[tuple[int, str]], call: Call, value: Callable[[str], int]) -> int:
    return sum(call.runs.get(address, 0) * value(text) for address, text in code)


def hottest_loop(functions: Iterable[Function], call: Call) -> Loop:
    """The innermost loop of the `accumulate` functions that multiplies most in a call.

    Raises:
        RuntimeError: there is none, or it does too little of the work to stand for it.
    """
    kernels = [function for function in functions if "accumulate" in function.name]
    done = sum(_sum(function.code, call, macs_of) for function in kernels)
    loops = [(function, body) for function in kernels for body in innermost_loops(function)]
    function, body = max(loops, key=lambda found: _sum(found[1], call, macs_of), default=(Function(""), []))
    share = _sum(body, call, macs_of) / done if done else 0
    if share < MOST_OF_IT:
        raise RuntimeError(
            f"no loop of an accumulate function does {MOST_OF_IT:.0%} of the multiplying: at most {share:.0%}"
        )
    opcodes: Counter[str] = Counter()
    for address, text in body:
        opcodes[text.split()[0]] += call.runs.get(address, 0)
    return Loop(
        function=function.name,
        body=body,
        passes=call.runs[body[-1][0]],
        instructions=sum(opcodes.values()),
        macs=share * call.macs,
        useful_share=call.macs / done,
        loads=_sum(body, call, loads_of),
        stack_accesses=sum(call.runs.get(address, 0) for address, _ in body if address in call.on_stack),
        vector_copies=_sum(body, call, lambda text: bool(VECTOR_COPY.match(text))),
        opcodes=opcodes,
    )
