#!/usr/bin/env python3
"""Holds the built objects to the rules of csrc/isa/tile.h.

    python scripts/check_isa.py BUILD_DIR [--objdump OBJDUMP] [--nm NM]

1. An ISA file defines one symbol, its kernel table, and no weak ones: the linker must not be able to hand its copy of a
   shared function to code that runs on every CPU.
2. No object holds instructions that its CPUs may lack: on x86-64, every object but the ISAs' uses baseline registers
   only; on aarch64, an ISA file holds armv8.0 and what its row in cmake/isa_table.cmake names, and all others armv8.0.
3. No hot loop (an innermost loop around one of the ISA's multiplies) touches the stack, or copies
   more than a few vector registers.

Run it on an optimised build, with each compiler that is supported. The objects say which architecture they are for.
Needs binutils for x86-64 and llvm's tools for aarch64.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from types import ModuleType

from objects import aarch64, x86_64
from objects.listing import find_tool, functions, innermost_loops, run

MACHINES = {62: x86_64, 183: aarch64}  # by e_machine, the bytes 18 and 19 of an ELF file


def machine_of(obj: Path) -> ModuleType:
    """The module that knows this object's architecture. Raises RuntimeError for another one."""
    with obj.open("rb") as file:
        head = file.read(20)
    number = int.from_bytes(head[18:20], "little")
    if head[:4] != b"\x7fELF" or number not in MACHINES:
        raise RuntimeError(f"{obj}: expected an ELF object for x86-64 or aarch64")
    return MACHINES[number]


def check_symbols(obj: Path, isa: str, nm: str) -> list[str]:
    problems = []
    for line in run(nm, "--defined-only", str(obj)).splitlines():
        _, kind, name = line.split(maxsplit=2)
        if kind in "WVwvu":
            problems.append(f"{obj.name}: weak symbol {name}: give it internal linkage (an anonymous namespace)")
        elif kind.isupper() and f"kernels_{isa}" not in name:
            problems.append(f"{obj.name}: exports {name}; an ISA file exports its kernel table only")
    return problems


def check_hot_loops(obj: Path, multiply: str, widest: int, machine: ModuleType, listing: str) -> tuple[list[str], int]:
    problems, most = [], 0
    for function in functions(listing):
        if "accumulate" not in function.name:
            continue
        for loop in innermost_loops(function):
            body = [text for _, text in loop]
            count = sum(re.search(multiply, text) is not None for text in body)
            most = max(most, count)
            bad = machine.spills(function, body) if count else []
            if bad:
                problems.append(f"{obj.name}: {function.name}: {len(bad)} of {len(body)} instructions spill: {bad[0]}")
    if most < widest:
        problems.append(f"{obj.name}: no hot loop holds {widest} {multiply}, the widest tile (found {most})")
    return problems, most


def check(build: Path, objdump: str | None, nm: str | None) -> int:
    objects = sorted((build / "CMakeFiles" / "edgekern.dir" / "csrc").rglob("*.o"))
    isas = [obj for obj in objects if obj.parent.name == "isa" and obj.name != "table.cc.o"]
    if not isas:
        raise RuntimeError(f"no objects of the library under {build}: build it there first")
    machine = machine_of(objects[0])
    objdump, nm = objdump or find_tool(*machine.OBJDUMP), nm or find_tool(*machine.NM)
    problems: list[str] = []
    for obj in objects:
        isa = obj.name.removesuffix(".cc.o") if obj in isas else ""
        if newer := machine.forbidden(obj, isa, objdump):
            problems.append(f"{obj.name}: {len(newer)} instructions that its CPUs may lack: {newer[0]}")
        if isa:
            problems += check_symbols(obj, isa, nm)
        if isa in machine.MULTIPLIES:
            listing = run(objdump, "-d", "-C", "--no-show-raw-insn", str(obj))
            for multiply, widest in machine.MULTIPLIES[isa].items():
                found, most = check_hot_loops(obj, multiply, widest, machine, listing)
                problems += found
                print(f"{isa}: hot loops up to {most} {multiply}")
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"check_isa: {len(objects)} objects, {len(problems)} problems")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--objdump", help="default: objdump, or llvm-objdump for aarch64")
    parser.add_argument("--nm", help="default: nm, or llvm-nm for aarch64")
    options = parser.parse_args()
    try:
        return check(options.build, options.objdump, options.nm)
    except RuntimeError as error:
        print(f"check_isa: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
