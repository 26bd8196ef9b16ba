"""docs/arm-cost.md, made from the figures in arm-cost.json alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .bars import INSTRUCTIONS_PER_MAC, LOADS_PER_16_WEIGHTS
from .estimate import CORES

PAGE = """\
# What a multiply-add costs on ARM

Rendered by `make arm-cost` from `benchmarks/results/arm-cost.json`; no figure in a table is typed by hand.

**No ARM hardware was measured, and nothing on this page is a time.** The first table counts instructions, exactly. The
second is what a model of each core makes of the same loops. How long a layer takes on your board, your board can tell:
`edgekern bench`, and `edgekern bench --submit` [to send it](../benchmarks/README.md#send-what-a-board-measured).

Compiler: {compiler}. Commit {commit}.

## Counted

A MAC is one multiply-add that the layer needs, of int8 unless `f32` or `f16` is said: {gemm} in `gemm`, {gemv}
in `gemv`. The rest have weights that are zero, and need none for those: {spmm} in `spmm`, `f32` and `f16`, of whose
blocks of 1 x 4 or 4 x 4 weights one in ten is kept, and {bitmap_gemv} in `bitmap gemv`, where every second weight is.
`f16` is multiplied as halves, eight an instruction, where the tier has ARMv8.2's arithmetic, and as f32 on `neon`.
The hot loop is where the multiplying is done; the whole call adds quantisation, scaling and stores, over the same MACs.

{exact}

One pass of each hot loop (of one row, `smmla` spends half of its multiplies on a second that is not there; a bitmap is
expanded in registers, and its zeros are multiplied, since few rows wait for memory and not for multiplies; `int4` has
the same shapes, and groups of 128 weights with zero points):

{passes}

How: `qemu-aarch64` 7.2 runs `benchmarks/native/kernel_cost` with a plugin that counts every instruction, once with one
call and once with two; the difference is one call, the same in every run. The hot loop is the innermost one that does
most of the multiplying. A load is a register loaded, so that a pair counts as two. Stack accesses are found by the
address that was used, not by the name of a register.

`make arm-cost-check` fails when a figure of the first table grows by more than 1 %, and when one is over its bar: the
column `bar`, {loads} loads for 16 weights in `gemv`, no stack access in any hot loop but `int4 gemm`'s, which loads the
weights of a group from where they were unpacked.

## Estimated

**Estimates, by llvm-mca-19**: MACs a cycle in the hot loop, with all data in the first cache and nothing else going on.
Where the same method could be compared with measured int8 loops, on an x86-64 CPU one generation newer than its model,
it was off by -15 % to +72 %. Use it to compare two loops on one core, not for a rate on a board. A dash: the core lacks
the instructions, or has better ones.

{estimates}
"""


def page_of(result: dict[str, Any]) -> str:
    """The page for a result of arm_cost.py."""
    loops = result["loops"]
    shapes = {loop["kernel"]: f"{loop['m']} x {loop['k']} to {loop['m']} x {loop['n']}" for loop in loops}
    return PAGE.format(
        gemm=shapes["gemm"],
        gemv=shapes["gemv"],
        spmm=shapes["spmm 1x4"],
        bitmap_gemv=shapes["bitmap gemv"],
        compiler=result["compiler"],
        commit=result["commit"],
        exact=exact_table(loops),
        passes=_table(("kernel", "MACs", "needed of its multiplies", "instructions", "which"), map(_pass, loops)),
        loads=LOADS_PER_16_WEIGHTS,
        estimates=_estimates(loops),
    )


def exact_table(loops: list[dict[str, Any]]) -> str:
    """The counted figures as a Markdown table."""
    header = (
        "kernel",
        "instructions / MAC",
        "bar",
        "loads / 16 weights",
        "stack accesses",
        "vector copies",
        "whole call / MAC",
    )
    rows = []
    for loop in loops:
        bar = INSTRUCTIONS_PER_MAC.get((loop["isa"], loop["kernel"]))
        rows.append(
            (
                _name(loop),
                f"{loop['instructions_per_mac']:.4f}",
                f"{bar:.3f}" if bar else "",
                f"{loop['loads_per_16_weights']:.3f}" if "loads_per_16_weights" in loop else "",
                str(loop["stack_accesses_per_pass"]),
                str(loop["vector_copies_per_pass"]),
                f"{loop['call_instructions_per_mac']:.4f}",
            )
        )
    return _table(header, rows)


def _pass(loop: dict[str, Any]) -> tuple[str, ...]:
    opcodes = sorted(loop["opcodes_per_pass"].items(), key=lambda item: (-item[1], item[0]))
    return (
        _name(loop),
        str(loop["macs_per_pass"]),
        f"{loop['useful_share_of_macs']:.0%}",
        str(loop["instructions_per_pass"]),
        ", ".join(f"{count} {name}" for name, count in opcodes),
    )


def _estimates(loops: list[dict[str, Any]]) -> str:
    cores = [core for core, _, _ in CORES]
    rows = []
    for loop in loops:
        found = loop["estimated_macs_per_cycle"]
        rows.append((_name(loop), *(f"{found[core]:.1f}" if core in found else "-" for core in cores)))
    return _table(("kernel", *cores), rows)


def _name(loop: dict[str, Any]) -> str:
    return f"`{loop['isa']}` {loop['kernel']}"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (header, ("---", *["---:"] * (len(header) - 1)), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
