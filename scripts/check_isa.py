#!/usr/bin/env python3
"""Holds the built objects to the rules of csrc/isa/tile.h.

    python scripts/check_isa.py BUILD_DIR [--objdump OBJDUMP] [--nm NM]

1. An ISA file defines one symbol, its kernel table, and no weak ones: the linker must not be able to hand its copy of a
   shared function to code that runs on every CPU.
2. Every other object of the library uses baseline registers only.
3. No hot loop (an innermost loop around the ISA's int8 multiply) touches the stack or copies vector registers.

Run it on an optimised build, with each compiler that is supported. Needs binutils (or llvm's twins).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# The instruction each ISA multiplies with, and how many its widest tile must hold: proof that the loop was found.
MULTIPLIES = {"avx2": ("vpmaddubsw", 8), "avx_vnni": ("vpdpbusd", 12), "avx512_vnni": ("vpdpbusd", 24)}
WIDE_REGISTERS = re.compile(r"%[yz]mm")
STACK = re.compile(r"\(%r[sb]p[,)]|\(%rsp")
VECTOR_COPY = re.compile(r"^vmov\w+\s+%[xyz]mm\d+,%[xyz]mm\d+$")
FUNCTION = re.compile(r"^[0-9a-f]+ <(?P<name>.+)>:$")
INSTRUCTION = re.compile(r"^\s*(?P<address>[0-9a-f]+):\s+(?P<text>\S.*?)\s*$")
JUMP = re.compile(r"^j\w+\s+(?P<target>[0-9a-f]+)\b")


@dataclass
class Function:
    name: str
    code: list[tuple[int, str]] = field(default_factory=list)  # (address, instruction)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def functions(listing: str) -> Iterator[Function]:
    current: Function | None = None
    for line in listing.splitlines():
        if head := FUNCTION.match(line):
            if current:
                yield current
            current = Function(head["name"])
        elif current and (row := INSTRUCTION.match(line)):
            current.code.append((int(row["address"], 16), " ".join(row["text"].split())))
    if current:
        yield current


def innermost_loops(function: Function) -> Iterator[list[str]]:
    """The bodies of backward jumps that hold no other backward jump."""
    spans = []
    for address, text in function.code:
        if (jump := JUMP.match(text)) and int(jump["target"], 16) <= address:
            spans.append((int(jump["target"], 16), address))
    for begin, end in spans:
        if not any((b, e) != (begin, end) and begin <= b and e <= end for b, e in spans):
            yield [text for address, text in function.code if begin <= address <= end]


def check_symbols(obj: Path, isa: str, nm: str) -> list[str]:
    problems = []
    for line in run(nm, "--defined-only", str(obj)).splitlines():
        _, kind, name = line.split(maxsplit=2)
        if kind in "WVwvu":
            problems.append(f"{obj.name}: weak symbol {name}: give it internal linkage (an anonymous namespace)")
        elif kind.isupper() and f"kernels_{isa}" not in name:
            problems.append(f"{obj.name}: exports {name}; an ISA file exports its kernel table only")
    return problems


def check_hot_loops(obj: Path, isa: str, listing: str) -> tuple[list[str], int]:
    multiply, widest = MULTIPLIES[isa]
    problems, most = [], 0
    for function in functions(listing):
        if "accumulate" not in function.name:
            continue
        for body in innermost_loops(function):
            count = sum(multiply in text for text in body)
            most = max(most, count)
            bad = [t for t in body if STACK.search(t) or VECTOR_COPY.match(t)] if count else []
            if bad:
                problems.append(f"{obj.name}: {function.name}: {len(bad)} of {len(body)} instructions spill: {bad[0]}")
    if most < widest:
        problems.append(f"{obj.name}: no hot loop holds {widest} {multiply}, the widest tile (found {most})")
    return problems, most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--objdump", default="objdump")
    parser.add_argument("--nm", default="nm")
    options = parser.parse_args()
    objects = sorted((options.build / "CMakeFiles" / "edgekern.dir" / "csrc").rglob("*.o"))
    isas = [obj for obj in objects if obj.parent.name == "isa" and obj.name != "table.cc.o"]
    if not isas:
        print(f"check_isa: no objects of the library under {options.build}: build it there first", file=sys.stderr)
        return 2
    problems: list[str] = []
    for obj in objects:
        isa = obj.name.removesuffix(".cc.o") if obj in isas else ""
        listing = run(options.objdump, "-d", "-C", "--no-show-raw-insn", str(obj))
        if isa:
            problems += check_symbols(obj, isa, options.nm)
        if isa in MULTIPLIES:
            found, most = check_hot_loops(obj, isa, listing)
            problems += found
            print(f"{isa}: hot loops up to {most} {MULTIPLIES[isa][0]}")
        elif wide := [t for f in functions(listing) for _, t in f.code if WIDE_REGISTERS.search(t)]:
            problems.append(f"{obj.name}: baseline object uses wide registers: {wide[0]}")
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"check_isa: {len(objects)} objects, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
