"""What to look for in x86-64 objects."""

from __future__ import annotations

import re
from pathlib import Path

from .listing import Function, functions, run

OBJDUMP, NM = ("objdump",), ("nm",)

# The instructions each ISA multiplies int8 and f32 with, and how many the widest tile must hold: proof that its loop
# was found.
MULTIPLIES = {
    "avx2": {"vpmaddubsw": 8, "vfmadd231ps": 8},
    "avx_vnni": {"vpdpbusd": 12, "vfmadd231ps": 8},
    "avx512_vnni": {"vpdpbusd": 24, "vfmadd231ps": 16},
    "avx512_vbmi2": {"vpdpbusd": 24, "vfmadd231ps": 16},
}
WIDE_REGISTERS = re.compile(r"%[yz]mm")
STACK = re.compile(r"\(%r[sb]p[,)]|\(%rsp")
VECTOR_COPY = re.compile(r"^vmov\w+\s+%[xyz]mm\d+,%[xyz]mm\d+$")


# A copy has no latency, as renaming does it, but it takes an instruction's place: gcc 12 leaves two in a loop of 96.
FEW_COPIES = 1 / 40


def spills(function: Function, body: list[str]) -> list[str]:
    """The instructions of a loop that touch the stack, and copies of vector registers where they are more than few."""
    copies = [text for text in body if VECTOR_COPY.match(text)]
    stack = [text for text in body if STACK.search(text)]
    return stack + (copies if len(copies) > FEW_COPIES * len(body) else [])


def forbidden(obj: Path, isa: str, objdump: str) -> list[str]:
    """Instructions that not every CPU has, in an object that is for every CPU."""
    if isa in MULTIPLIES:
        return []
    listing = run(objdump, "-d", "-C", "--no-show-raw-insn", str(obj))
    return [text for function in functions(listing) for _, text in function.code if WIDE_REGISTERS.search(text)]
