"""Counting instructions: loops are found, instructions are valued, and what got worse is said. Needs no ARM tools."""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from cost.bars import over_the_bars, worse_than_committed  # noqa: E402
from cost.emulated import Call  # noqa: E402
from cost.loop import hottest_loop, loads_of, macs_of  # noqa: E402
from cost.page import page_of  # noqa: E402
from objects.listing import functions  # noqa: E402

COMMITTED = json.loads((ROOT / "benchmarks/results/arm-cost.json").read_text())

# A kernel with a jump over one instruction in its hot loop, a tail loop, and a function that is no kernel.
LISTING = """\
0000000000001000 <void (anonymous namespace)::accumulate<2, 1>(TileArgs const&)>:
    1000:      \tmov\tx8, #0x0
    1004:      \tldp\tq0, q1, [x0], #0x20
    1008:      \tsdot\tv2.4s, v0.16b, v4.4b[0]
    100c:      \tcbz\tx9, 0x1014 <void (anonymous namespace)::accumulate<2, 1>(TileArgs const&)+0x14>
    1010:      \tstr\tq2, [x3]
    1014:      \tmov\tv5.16b, v2.16b
    1018:      \tsdot\tv3.4s, v1.16b, v4.4b[0]
    101c:      \tb.ne\t0x1004 <void (anonymous namespace)::accumulate<2, 1>(TileArgs const&)+0x4>
    1020:      \tsdot\tv3.4s, v1.16b, v4.4b[0]
    1024:      \ttbnz\tw1, #0x3, 0x1020 <void (anonymous namespace)::accumulate<2, 1>(TileArgs const&)+0x20>
    1028:      \tret

0000000000002000 <quantize>:
    2000:      \tsdot\tv3.4s, v1.16b, v4.4b[0]
    2004:      \tb\t0x2000 <quantize>
"""
RUNS = {0x1000: 1, **dict.fromkeys(range(0x1004, 0x1020, 4), 100), 0x1010: 50, 0x1020: 1, 0x1024: 1, 0x1028: 1}


def call(**changes):
    runs = {**RUNS, 0x2000: 9999}
    return Call(**{"compiler": "a compiler", "macs": 201 * 16, "runs": runs, "on_stack": frozenset({0x1010})} | changes)


def test_the_hot_loop_is_the_kernels_and_counts_what_ran():
    loop = hottest_loop(functions(LISTING), call())
    assert [address for address, _ in loop.body] == list(range(0x1004, 0x1020, 4))
    assert (loop.passes, loop.instructions, loop.macs, loop.loads) == (100, 650, pytest.approx(3200), 200)
    assert (loop.stack_accesses, loop.vector_copies, loop.useful_share) == (50, 100, 1)
    assert loop.opcodes == Counter({"sdot": 200, "ldp": 100, "cbz": 100, "str": 50, "mov": 100, "b.ne": 100})
    figures = loop.figures()
    assert figures["instructions_per_mac"] == round(650 / 3200, 5)
    assert figures["stack_accesses_per_pass"] == 0.5
    assert figures["opcodes_per_pass"]["sdot"] == 2


def test_multiplies_on_rows_that_are_not_there_do_not_count():
    loop = hottest_loop(functions(LISTING), call(macs=201 * 8))
    assert loop.useful_share == 0.5
    assert loop.figures()["instructions_per_mac"] == round(2 * 650 / 3200, 5)


def test_a_loop_that_does_little_of_the_work_does_not_stand_for_it():
    with pytest.raises(RuntimeError, match="at most 60%"):
        hottest_loop(functions(LISTING), call(runs=RUNS | {0x1020: 150, 0x1018: 125}))
    with pytest.raises(RuntimeError, match="at most 0%"):
        hottest_loop(functions(LISTING), call(runs={}))


@pytest.mark.parametrize(
    ("text", "macs"),
    [
        ("sdot v0.4s, v1.16b, v2.4b[1]", 16),
        ("sdot v0.2s, v1.8b, v2.4b[1]", 0),
        ("smmla v0.4s, v1.16b, v2.16b", 32),
        ("smull v0.8h, v1.8b, v2.8b", 8),
        ("smlal2 v0.8h, v1.16b, v2.16b", 8),
        ("smlsl v0.8h, v1.8b, v2.8b", 8),
        ("smlal2 v0.4s, v1.8h, v2.8h", 4),
        ("sadalp v0.4s, v1.8h", 0),
        ("fmla v0.8h, v1.8h, v2.h[3]", 8),
        ("fmla v0.4s, v1.4s, v2.s[0]", 4),
    ],
)
def test_multiply_adds_of_an_instruction(text, macs):
    assert macs_of(text) == macs


@pytest.mark.parametrize(
    ("text", "loads"),
    [
        ("ldr q0, [x0]", 1),
        ("ldp q0, q1, [x0]", 2),
        ("ld1 { v0.16b, v1.16b, v2.16b }, [x0]", 3),
        ("ld1r { v0.4s }, [x0]", 1),
        ("prfm pldl1keep, [x0]", 0),
        ("str q0, [x0]", 0),
    ],
)
def test_loads_of_an_instruction(text, loads):
    assert loads_of(text) == loads


@pytest.fixture
def loops():
    return copy.deepcopy(COMMITTED["loops"])


def test_what_is_committed_is_within_the_bars_and_on_the_page(loops):
    assert over_the_bars(loops) == []
    assert worse_than_committed(loops, COMMITTED["loops"]) == []
    assert (ROOT / "docs/arm-cost.md").read_text() == page_of(COMMITTED)


@pytest.mark.parametrize(
    ("kernel", "figure", "value"),
    [
        ("neon_dotprod gemm", "instructions_per_mac", 0.0851),
        ("neon_i8mm gemm", "instructions_per_mac", 0.0501),
        ("neon gemm", "instructions_per_mac", 0.301),
        ("neon_i8mm gemv", "stack_accesses_per_pass", 1),
        ("neon_dotprod spmm 4x4", "stack_accesses_per_pass", 1),
        ("neon gemv", "loads_per_16_weights", 1.21),
    ],
)
def test_a_figure_over_its_bar_is_named(loops, kernel, figure, value):
    loop = next(loop for loop in loops if f"{loop['isa']} {loop['kernel']}" == kernel)
    loop[figure] = value
    (problem,) = over_the_bars(loops)
    assert problem.startswith(f"{kernel}: {figure} is {value}, the bar is ")


def test_growth_beyond_the_tolerance_is_named(loops):
    before = loops[0]["call_instructions_per_mac"]
    loops[0]["call_instructions_per_mac"] = before * 1.009
    assert worse_than_committed(loops, COMMITTED["loops"]) == []
    loops[0]["call_instructions_per_mac"] = before * 1.011
    (problem,) = worse_than_committed(loops, COMMITTED["loops"])
    assert "call_instructions_per_mac" in problem
    loops[0]["call_instructions_per_mac"] = before * 0.5
    assert worse_than_committed(loops, COMMITTED["loops"]) == []


def test_a_loop_that_came_or_went_is_named(loops):
    gone = loops.pop()
    (problem,) = worse_than_committed(loops, COMMITTED["loops"])
    assert problem == f"{gone['isa']} {gone['kernel']}: measured or committed, but not both"
