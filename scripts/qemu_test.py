#!/usr/bin/env python3
"""Runs the tests on CPUs that this machine does not have, emulated by qemu-user.

    scripts/qemu_test.py cpp --cpu cortex-a53 --cpu cortex-a76 build/cross/wheel/tests/cpp/edgekern_tests
    scripts/qemu_test.py python --cpu cortex-a53 --root build/cross/root --path build/cross/site -- tests/python/...

Each CPU must choose the ISA that is best for it, and run its tests: together they run all ISAs. An ISA left out is an
error, and so is an instruction that the CPU lacks, which ends a test with SIGILL.
The emulator says nothing about speed.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
TIMEOUT = 900  # seconds for one run


class Cpu(NamedTuple):
    emulator: str
    isas: tuple[str, ...]  # all that it runs, best first

    @property
    def tested(self) -> tuple[str, ...]:
        """What the C++ tests run here: the ISA that only this CPU chooses, and scalar on the simplest."""
        return self.isas if len(self.isas) <= 2 else self.isas[:1]


CPUS = {
    "cortex-a53": Cpu("qemu-aarch64", ("neon", "scalar")),  # armv8.0: Raspberry Pi 3; a Pi 4's A72 has no more
    "cortex-a76": Cpu("qemu-aarch64", ("neon_dotprod", "neon", "scalar")),  # armv8.2: Raspberry Pi 5
    "max,sve=off": Cpu("qemu-aarch64", ("neon_i8mm", "neon_dotprod", "neon", "scalar")),  # a phone of 2021 and later
    "Nehalem": Cpu("qemu-x86_64", ("scalar",)),  # SSE 4.2, no AVX
    "Haswell": Cpu("qemu-x86_64", ("avx2", "scalar")),
}


# The C++ tests that do not go through all the ISAs by themselves: they run on the CPU that chooses the ISA.
LEAVE_THE_ISA_OPEN = "EDGEKERN_ISA*,abi:*,pack:*,*threads*"


class TestFailure(Exception):
    pass


def run(command: list[str | Path], **environment: str) -> str:
    """What the command prints; TestFailure when it fails."""
    variables = {name: value for name, value in os.environ.items() if name != "EDGEKERN_ISA"} | environment
    done = subprocess.run(
        command, env=variables, timeout=TIMEOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        settings = " ".join(f"{name}={value}" for name, value in environment.items() if name == "EDGEKERN_ISA")
        raise TestFailure(f"{settings} {' '.join(map(str, command))}\n{done.stdout}{how}".strip())
    return done.stdout


def expect(what: str, expected: object, got: object, output: str) -> None:
    if got != expected:
        raise TestFailure(f"{what}: expected {expected}, got {got}\n{output}")


def test_cpp(name: str, options: argparse.Namespace) -> str:
    """All tests; then EDGEKERN_ISA names the other ISAs: those the CPU has must be taken, those it lacks be refused."""
    cpu = CPUS[name]
    command = [cpu.emulator, "-cpu", name, options.binary]
    output = run(command, EDGEKERN_TEST_ISAS=",".join(cpu.tested))
    cases = re.search(r"test cases: +(\d+)", output)
    skipped = re.findall(r"^  (\w+) +SKIPPED", output, re.MULTILINE)
    expect("ISAs tested", list(cpu.tested), re.findall(r"^  (\w+) +tested$", output, re.MULTILINE), output)
    expect("default ISA", cpu.isas[0], default_isa(output), output)
    for isa in cpu.isas[1:]:
        again = LEAVE_THE_ISA_OPEN if isa in cpu.tested else "EDGEKERN_ISA*"
        output = run([*command, f"--test-case={again}"], EDGEKERN_ISA=isa)
        expect(f"default ISA with EDGEKERN_ISA={isa}", isa, default_isa(output), output)
    for isa in skipped:
        output = run([*command, "--test-case=EDGEKERN_ISA*"], EDGEKERN_ISA=isa)
        expect(f"default ISA with EDGEKERN_ISA={isa}", "none", default_isa(output), output)
    ran, refused = ", ".join(cpu.tested), ", ".join(skipped) or "none"
    return f"{cases[1] if cases else 'no'} test cases, chose {cpu.isas[0]}, ran {ran}; refused {refused}"


def default_isa(output: str) -> str:
    line = re.search(r"^default: (\w+)", output, re.MULTILINE)
    return line[1] if line else ""


def test_python(name: str, options: argparse.Namespace) -> str:
    """pytest, on an interpreter and packages for the emulated machine."""
    cpu = CPUS[name]
    python = write_interpreter(name, options)
    variables = {
        "PYTHONPATH": os.pathsep.join(str(path.resolve()) for path in options.path),
        "PYTHONSAFEPATH": "1",  # the package that is installed, not the one in this folder
        "PYTHONNOUSERSITE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "EDGEKERN_TEST_PYTHON": str(python),
    }
    output = run([python, "-m", "pytest", "-p", "no:cacheprovider", *options.tests], **variables)
    header = re.search(r"^edgekern: .*", output, re.MULTILINE)
    expect("ISAs", f"edgekern: {cpu.isas[0]} of {', '.join(cpu.isas)}", header and header[0], output)
    skips: Counter[str] = Counter()
    for count, reason in re.findall(r"^SKIPPED \[(\d+)\] .*?:\d+: (.*)", output, re.MULTILINE):
        skips[reason] += int(count)
    summary = f"{output.splitlines()[-1].strip('= ')}, on {cpu.isas[0]}"
    return "\n".join([summary, *(f"  {count} skipped: {reason}" for reason, count in skips.items())])


def write_interpreter(name: str, options: argparse.Namespace) -> Path:
    """A program that is Python on the emulated CPU: child processes of the tests are started through it too."""
    tree = f"-L '{options.root.resolve()}' " if options.root else ""
    python = options.root.resolve() / "usr/bin/python3.11" if options.root else Path(sys.executable)
    path = REPOSITORY / "build/qemu" / f"python-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    # -S: of this machine's site-packages nothing is seen.
    path.write_text(f"#!/bin/sh\nexec {CPUS[name].emulator} -cpu {name} {tree}'{python}' -S \"$@\"\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    cpp = kinds.add_parser("cpp", help="the C++ tests, linked statically")
    cpp.add_argument("binary", type=Path)
    cpp.set_defaults(test=test_cpp)
    python = kinds.add_parser("python", help="Python tests, against an installed wheel")
    python.add_argument("--root", type=Path, help="Debian tree with Python; default: this Python, which must be x86-64")
    python.add_argument("--path", type=Path, action="append", default=[], help="a folder of installed packages")
    python.add_argument("tests", nargs="+", help="what pytest takes, after --")
    python.set_defaults(test=test_python)
    for kind in (cpp, python):
        kind.add_argument("--cpu", action="append", required=True, choices=CPUS, help="several run in parallel")
    options = parser.parse_args()
    test: Callable[[str, argparse.Namespace], str] = options.test
    failures = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        runs = {name: pool.submit(test, name, options) for name in options.cpu}
        for name, result in runs.items():
            try:
                print(f"{name}: {result.result()}", flush=True)
            except (OSError, TestFailure, subprocess.TimeoutExpired) as error:
                failures += 1
                print(f"{name}: FAILED: {error}", file=sys.stderr, flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
