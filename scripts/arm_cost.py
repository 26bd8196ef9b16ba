#!/usr/bin/env python3
"""Counts what one multiply-add costs in the ARM kernels, in instructions; needs no ARM machine, and times nothing.

    python scripts/arm_cost.py KERNEL_COST            write benchmarks/results/arm-cost.json and docs/arm-cost.md
    python scripts/arm_cost.py KERNEL_COST --check    write nothing; compare with what is committed

KERNEL_COST is benchmarks/native/kernel_cost, linked statically for aarch64. Its instructions are counted exactly, under
qemu-user 7.2; beside them stand estimates of llvm-mca-19, on which nothing depends. The exit code is 1 when a hot loop
is over its bar, and with --check also when one got worse or the page is stale.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cost.bars import over_the_bars, worse_than_committed
from cost.emulated import Call, build_plugin, count_call
from cost.estimate import macs_per_cycle
from cost.loop import hottest_loop
from cost.page import exact_table, page_of
from objects import aarch64
from objects.listing import Function, find_tool, functions, run

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks/results/arm-cost.json", ROOT / "docs/arm-cost.md"
SCHEMA = 1

# The oldest core that has each ISA, of those that qemu knows; "max" without SVE is a phone's core.
CPUS = {"neon": "cortex-a53", "neon_dotprod": "cortex-a76", "neon_i8mm": "max,sve=off"}
# The format, and (m, n, k): a multiple of every tile, so that the widest does all the work; or one row.
KERNELS = {
    "gemm": ("int8", (48, 3072, 768)),
    "gemv": ("int8", (1, 3072, 768)),
    "spmm 1x4": ("int8_blocks_1x4", (64, 768, 768)),
    "spmm 4x4": ("int8_blocks_4x4", (64, 768, 768)),
    "bitmap gemv": ("int8_bitmap", (1, 768, 768)),
    "int4 gemm": ("int4", (48, 3072, 768)),
    "int4 gemv": ("int4", (1, 3072, 768)),
    "int4 bitmap gemv": ("int4_bitmap", (1, 768, 768)),
    "f32 1x4": ("f32_1x4", (64, 768, 768)),
    "f32 4x4": ("f32_4x4", (64, 768, 768)),
    "f16 1x4": ("f16_1x4", (64, 768, 768)),
    "f16 4x4": ("f16_4x4", (64, 768, 768)),
}


def figures_of(isa: str, kernel: str, code: list[Function], call: Call) -> dict[str, Any]:
    """The figures of one kernel."""
    m, n, k = KERNELS[kernel][1]
    loop = hottest_loop(code, call)
    figures: dict[str, Any] = {"isa": isa, "kernel": kernel, "m": m, "n": n, "k": k, "emulated_cpu": CPUS[isa]}
    figures |= loop.figures()
    if kernel == "gemv":
        figures["loads_per_16_weights"] = round(16 * loop.loads / loop.macs, 4)
    figures["call_instructions_per_mac"] = round(call.instructions / call.macs, 5)
    body = [text for _, text in loop.body]
    figures["estimated_macs_per_cycle"] = macs_per_cycle(isa, body, loop.macs / loop.passes)
    return figures


def measure(program: Path) -> dict[str, Any]:
    """All figures, as arm-cost.json holds them."""
    listing = run(find_tool(*aarch64.OBJDUMP), "-d", "-C", "--no-show-raw-insn", "--mattr=+all", str(program))
    code = list(functions(listing))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        plugin = build_plugin(Path(folder))
        calls = {
            (isa, kernel): pool.submit(count_call, plugin, program, cpu, isa, form, *map(str, shape))
            for isa, cpu in CPUS.items()
            for kernel, (form, shape) in KERNELS.items()
        }
        loops = [figures_of(isa, kernel, code, call.result()) for (isa, kernel), call in calls.items()]
        compiler = next(iter(calls.values())).result().compiler
    commit = run("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*").strip()
    return {"kind": "arm-cost", "schema": SCHEMA, "commit": commit, "compiler": compiler, "loops": loops}


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
