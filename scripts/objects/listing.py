"""Functions, instructions and loops of an objdump listing, GNU's or llvm's, for x86-64 and aarch64."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

FUNCTION = re.compile(r"^[0-9a-f]+ <(?P<name>.+)>:$")
INSTRUCTION = re.compile(r"^\s*(?P<address>[0-9a-f]+):\s+(?P<text>\S.*?)\s*$")
# jne 1c, b.ne 0x1c, cbz x0, 1c, tbnz w0, #3, 0x1c: a jump that stays in its function
JUMP = re.compile(r"^(j\w+|b(\.\w+)?|cbn?z|tbn?z)\s+(\w+, )?(#\w+, )?(0x)?(?P<target>[0-9a-f]+)( <|$)")

RETURN = re.compile(r"^(repz? )?ret")


@dataclass
class Function:
    name: str
    code: list[tuple[int, str]] = field(default_factory=list)  # (address, instruction)


def run(*command: str) -> str:
    """What a command prints. Raises RuntimeError, with what it said, when it fails or is not there."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise RuntimeError(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(command)}: exit code {error.returncode}: {error.stderr.strip()}") from None


def find_tool(*names: str) -> str:
    """The first of these that is installed. Raises RuntimeError when none is."""
    for name in names:
        if shutil.which(name):
            return name
    raise RuntimeError(f"{' or '.join(names)} is not installed (Debian and Ubuntu: binutils, llvm-19)")


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


def innermost_loops(function: Function) -> Iterator[list[tuple[int, str]]]:
    """The bodies of backward jumps that hold no other backward jump.

    A jump back over a return closes no loop: it leads from code that was moved behind the function's end to its place.
    """
    spans = []
    returns = [address for address, text in function.code if RETURN.match(text)]
    for address, text in function.code:
        if (jump := JUMP.match(text)) and function.code[0][0] <= int(jump["target"], 16) <= address:
            spans.append((int(jump["target"], 16), address))
    spans = [(begin, end) for begin, end in spans if not any(begin <= address <= end for address in returns)]
    for begin, end in spans:
        if not any((b, e) != (begin, end) and begin <= b and e <= end for b, e in spans):
            yield [(address, text) for address, text in function.code if begin <= address <= end]
