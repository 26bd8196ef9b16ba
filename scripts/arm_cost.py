#!/usr/bin/env python3
"""Counts what one int8 multiply-add costs in each ARM kernel, in instructions; needs no ARM machine, and times nothing.

    python scripts/arm_cost.py KERNEL_COST            write benchmarks/results/arm-cost.json and docs/arm-cost.md
    python scripts/arm_cost.py KERNEL_COST --check    write nothing; compare with what is committed

KERNEL_COST is benchmarks/native/kernel_cost, linked statically for aarch64. Its instructions are counted exactly, under
qemu-user 7.2; beside them stand estimates of llvm-mca-19, on which nothing depends. The exit code is 1 when a hot loop
is over its bar, and with --check also when one got worse or the page is stale.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from cost.bars import over_the_bars, worse_than_committed
from cost.emulated import build_plugin, count_call
from cost.estimate import macs_per_cycle
from cost.loop import hottest_loop
from cost.page import exact_table, page_of
from objects import aarch64
from objects.listing import find_tool, functions, run

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks/results/arm-cost.json", ROOT / "docs/arm-cost.md"
SCHEMA = 1

# The oldest core that has each ISA, of those that qemu knows; "max" without SVE is a phone's core.
CPUS = {"neon": "cortex-a53", "neon_dotprod": "cortex-a76", "neon_i8mm": "max,sve=off"}
# (m, n, k): a multiple of every tile, so that the widest does all the work; and one row.
SHAPES = {"gemm": (48, 3072, 768), "gemv": (1, 3072, 768)}


def measure(program: Path) -> dict[str, Any]:
    """All figures, as arm-cost.json holds them."""
    listing = run(find_tool(*aarch64.OBJDUMP), "-d", "-C", "--no-show-raw-insn", "--mattr=+all", str(program))
    code = list(functions(listing))
    loops = []
    with tempfile.TemporaryDirectory() as folder:
        plugin = build_plugin(Path(folder))
        for isa, cpu in CPUS.items():
            for kernel, (m, n, k) in SHAPES.items():
                call = count_call(plugin, program, cpu, isa, "int8", str(m), str(n), str(k))
                loop = hottest_loop(code, call, m * n * k)
                figures: dict[str, Any] = {"isa": isa, "kernel": kernel, "m": m, "n": n, "k": k, "emulated_cpu": cpu}
                figures |= loop.figures()
                if m == 1:
                    figures["loads_per_16_weights"] = round(16 * loop.loads / loop.macs, 4)
                figures["call_instructions_per_mac"] = round(call.instructions / (m * n * k), 5)
                body = [text for _, text in loop.body]
                figures["estimated_macs_per_cycle"] = macs_per_cycle(isa, body, loop.macs / loop.passes)
                loops.append(figures)
    commit = run("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*").strip()
    return {"kind": "arm-cost", "schema": SCHEMA, "commit": commit, "compiler": call.compiler, "loops": loops}


def check(result: dict[str, Any]) -> list[str]:
    """What is worse than committed, and whether the page says what is committed."""
    committed = json.loads(RESULTS.read_text())
    problems = worse_than_committed(result["loops"], committed["loops"])
    if problems and result["compiler"] != committed["compiler"]:
        problems.append(f"mind the compiler: {result['compiler']} now, {committed['compiler']} when committed")
    if PAGE.read_text() != page_of(committed):
        problems.append(f"{PAGE.relative_to(ROOT)} is not what {RESULTS.relative_to(ROOT)} says: run make arm-cost")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path, metavar="KERNEL_COST")
    parser.add_argument("--check", action="store_true", help="compare with what is committed; write nothing")
    options = parser.parse_args()
    try:
        result = measure(options.program)
        problems = over_the_bars(result["loops"])
        if options.check:
            problems += check(result)
        else:
            RESULTS.write_text(json.dumps(result, indent=2) + "\n")
            PAGE.write_text(page_of(result))
    except (OSError, RuntimeError) as error:
        print(f"arm_cost: {error}", file=sys.stderr)
        return 2
    print(exact_table(result["loops"]))
    for problem in problems:
        print(f"arm_cost: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
