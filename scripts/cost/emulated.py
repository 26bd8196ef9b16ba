"""Counts the instructions of one call, by running a program under qemu-user with a plugin that counts."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from objects.listing import run

QEMU = "qemu-aarch64"
# What main's callees may have put on the stack below main's own frame; the kernels' tiles take 20 kB.
STACK_BYTES = 1 << 20


@dataclass(frozen=True)
class Call:
    """One call of a layer: exact, and the same in every run."""

    compiler: str
    macs: int  # the multiply-adds that it needs
    runs: dict[int, int]  # how often each instruction ran, by its address
    on_stack: frozenset[int]  # the instructions that read or wrote the stack

    @property
    def instructions(self) -> int:
        return sum(self.runs.values())


def build_plugin(folder: Path) -> Path:
    """Compiles the plugin for this machine. Raises RuntimeError when that, or qemu, does not work here."""
    plugin = folder / "count.so"
    source = Path(__file__).with_name("count.cc")
    run(os.environ.get("CXX", "c++"), "-O2", "-fPIC", "-shared", "-o", str(plugin), str(source))
    version = run(QEMU, "--version").split()[2]
    if version.split(".")[0] != "7":
        raise RuntimeError(
            f"{QEMU} is version {version}; expected 7.2, whose plugins scripts/cost/count.cc is written for"
        )
    return plugin


def count_call(plugin: Path, program: Path, cpu: str, *arguments: str) -> Call:
    """The counts of one call: those of a run with two calls, less those of a run with one."""
    once = _count(plugin, program, cpu, *arguments, "1")
    twice = _count(plugin, program, cpu, *arguments, "2")
    runs = {address: more for address in twice.runs if (more := twice.runs[address] - once.runs.get(address, 0))}
    return Call(twice.compiler, twice.macs, runs, twice.on_stack)


def _count(plugin: Path, program: Path, cpu: str, *arguments: str) -> Call:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "counts"
        printed = run(QEMU, "-cpu", cpu, "-plugin", f"{plugin},out={file}", str(program), *arguments)
        facts = dict(line.split(maxsplit=1) for line in printed.splitlines())
        top = int(facts["stack"], 16)
        runs, on_stack = {}, set()
        for line in file.read_text().splitlines():
            address, count, lowest, highest = (int(word, 16) for word in line.split())
            runs[address] = count
            if lowest < top and highest >= top - STACK_BYTES:
                on_stack.add(address)
    return Call(facts["compiler"], int(facts["macs"]), runs, frozenset(on_stack))
