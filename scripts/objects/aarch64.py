"""What to look for in aarch64 objects and programs."""

from __future__ import annotations

import re
from pathlib import Path

from .listing import Function, functions, run

# llvm's, which can be told what a CPU knows (see forbidden) and reads every extension; any version from 16 on will do.
OBJDUMP = ("llvm-objdump-19", "llvm-objdump-16", "llvm-objdump")
NM = ("llvm-nm-19", "llvm-nm-16", "llvm-nm")

# The instructions each ISA multiplies int8, int4 and floats with, as patterns, and how many the widest tile must hold:
# proof that its loop was found.
MULTIPLIES = {
    "neon": {"smlsl": 16, "smlal": 16, "fmla .*4s": 16},  # dense; blocks and int4; f32 and f16
    "neon_dotprod": {"sdot": 48, "fmla .*4s": 16, "fmla .*8h": 16},
    "neon_i8mm": {"smmla": 24, "sdot": 16, "fmla .*4s": 16, "fmla .*8h": 16},
}
# What an object may hold beyond armv8.0 with NEON, in llvm's names; the rows of cmake/isa_table.cmake need the same.
EXTENSIONS = {"neon_dotprod": "+dotprod,+fullfp16", "neon_i8mm": "+dotprod,+fullfp16,+i8mm"}
BASELINE = "+neon"
UNKNOWN = "<unknown>"

VECTOR_COPY = re.compile(r"^mov v\d+\.(16|8)b, v\d+\.(16|8)b$|^fmov [sdh]\d+, [sdh]\d+$")
FRAME_POINTER = re.compile(r"^(mov|add) x29, sp\b")


def spills(function: Function, body: list[str]) -> list[str]:
    """The instructions of a loop that touch the stack or copy a vector register.

    x29 is the frame pointer only in a function that makes it one; elsewhere it is a register like any other.
    """
    framed = any(FRAME_POINTER.match(text) for _, text in function.code)
    stack = re.compile(r"\[(sp|x29)[],]" if framed else r"\[sp[],]")
    return [text for text in body if stack.search(text) or VECTOR_COPY.match(text)]


def forbidden(obj: Path, isa: str, objdump: str) -> list[str]:
    """Instructions newer than the object's ISA: newer than armv8.0 for what runs on every CPU.

    The disassembler decides, not a list of names: told which extensions the CPU has, it does not recognise the rest.
    """
    extensions = ",".join(filter(None, (BASELINE, EXTENSIONS.get(isa))))
    known = functions(run(objdump, "-d", "-C", "--no-show-raw-insn", f"--mattr={extensions}", str(obj)))
    named = functions(run(objdump, "-d", "-C", "--no-show-raw-insn", "--mattr=+all", str(obj)))
    return [
        f"{text} in {function.name}"
        for function, same in zip(known, named, strict=True)
        for (_, seen), (_, text) in zip(function.code, same.code, strict=True)
        if seen == UNKNOWN
    ]
