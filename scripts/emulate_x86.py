#!/usr/bin/env python3
"""Runs a static x86-64 Linux test binary on an emulated CPU that has the VNNI instructions this machine may lack.

    scripts/emulate_x86.py --cpu avx512_vnni -- build/static/tests/cpp/edgekern_tests

What the binary prints goes to stdout, and its exit code is returned: 128 + number if a signal ended it, 124 after a
timeout, 125 if the emulator itself failed. The emulator is Bochs: it carries out every instruction exactly, and says
nothing about speed. It emulates a whole machine, so the binary runs as the one program of a Linux kernel; the first use
downloads both from a Debian mirror into a private folder. More in docs/testing-x86.md.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from emulate import debian, guest

REPOSITORY = Path(__file__).resolve().parent.parent
ARGUMENTS_LIMIT = 4096  # bytes that emulate/init.cc has room for
TIMED_OUT, EMULATOR_FAILED = 124, 125


class Cpu(NamedTuple):
    """An emulated CPU: Bochs's model, the features taken from it, and the flags Linux must report."""

    model: str
    without: str
    flags: str


CPUS = {
    # Ice Lake, without what no kernel uses.
    "avx512_vbmi2": Cpu(
        "corei7_icelake_u",
        "avx512vbmi avx512ifma52 avx512bitalg avx512vpopcnt avx512vp2intersect gfni vaes_vpclmulqdq sha",
        "avx2 f16c fma avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_vbmi2",
    ),
    # Ice Lake cut down to Cascade Lake, the first AVX-512 with VNNI, so that a use of anything newer (VBMI, say) traps.
    "avx512_vnni": Cpu(
        "corei7_icelake_u",
        "avx512vbmi avx512vbmi2 avx512ifma52 avx512bitalg avx512vpopcnt avx512vp2intersect gfni vaes_vpclmulqdq sha",
        "avx2 f16c fma avx512f avx512bw avx512dq avx512vl avx512_vnni",
    ),
    # Arrow Lake cut down to the vector instructions of Alder Lake, the first with AVX-VNNI.
    "avx_vnni": Cpu(
        "arrow_lake",
        "avx_ifma avx_vnni_int8 avx_vnni_int16 avx_ne_convert sha512",
        "avx2 f16c fma avx_vnni",
    ),
}


def settings(cpu: Cpu, cache: Path) -> str:
    """Bochs's configuration. The guest's files, and those it writes, are in the current folder."""
    return f"""\
config_interface: textconfig
display_library: term
cpu: model={cpu.model}, count=1, ips=1500000000, reset_on_triple_fault=0, exclude_features="{cpu.without}"
memory: guest={guest.MEMORY >> 20}, host={guest.MEMORY >> 20}, block_size=8192
romimage: file={cache / "boot.rom"}, address=0xffff0000
vgaromimage: file={cache / "boot.rom"}
optramimage1: file=memory, address=0
clock: sync=none
parport1: enabled=1, file=output
parport2: enabled=1, file=status
com1: enabled=1, mode=file, dev=console
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
speaker: enabled=0
log: bochs.log
panic: action=fatal
"""


def emulate(cpu: Cpu, cache: Path, test: list[str], environment: list[str], timeout: float) -> int:
    """Runs the test on the emulated CPU, prints what it printed, and returns the exit code to end with."""
    arguments = "".join(f"{word}\0" for word in [*test, "", *environment]).encode()
    if len(arguments) >= ARGUMENTS_LIMIT:
        raise ValueError(f"arguments and variables have {len(arguments)} bytes; the limit is {ARGUMENTS_LIMIT}")
    files = {
        "init": (cache / "init").read_bytes(),
        "test": Path(test[0]).read_bytes(),
        "arguments": arguments,
    }
    root = cache / "root"
    variables = {
        **os.environ,
        "TERM": "xterm",
        "BXSHARE": str(root / "usr/share/bochs"),
        "LTDL_LIBRARY_PATH": str(root / debian.LIBRARIES / "bochs/plugins"),
    }
    command = [*debian.command(root, "usr/bin/bochs-bin"), "-q", "-f", "bochsrc"]
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        machine = Path(folder)
        guest.write_memory(machine / "memory", (cache / "vmlinux").read_bytes(), files)
        (machine / "bochsrc").write_text(settings(cpu, cache))
        try:
            subprocess.run(
                command, cwd=machine, env=variables, timeout=timeout, stdin=subprocess.DEVNULL, capture_output=True
            )
        except subprocess.TimeoutExpired:
            return report(cpu, machine, f"no end after {timeout:.0f} s", TIMED_OUT)
        return report(cpu, machine, "the emulated machine stopped by itself", EMULATOR_FAILED)


def report(cpu: Cpu, machine: Path, unfinished: str, unfinished_code: int) -> int:
    """Prints what the test printed; `unfinished` and its code are for a test that did not come to its end."""

    def read(name: str) -> str:
        file = machine / name
        return file.read_text(errors="replace") if file.exists() else ""

    print(read("output"), end="", flush=True)
    status = read("status")
    flags = re.search(r"^flags\s*: (.*)", status, re.MULTILINE)
    missing = [flag for flag in cpu.flags.split() if flags and flag not in flags[1].split()]
    if missing:
        raise RuntimeError(f"the emulated CPU {cpu.model} lacks {' '.join(missing)}")
    end = re.search(r"^(exit|signal) (\d+)$", status, re.MULTILINE)
    if end is None:
        log = "\n".join(read("bochs.log").splitlines()[-15:])
        print(f"emulate_x86: {unfinished}\nkernel:\n{read('console')[-4000:]}\nBochs:\n{log}", file=sys.stderr)
        return unfinished_code
    if end[1] == "signal":
        print(f"emulate_x86: signal {end[2]} ended the test", file=sys.stderr)
    return int(end[2]) + (128 if end[1] == "signal" else 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cpu", required=True, choices=CPUS, help="the emulated CPU, by the kernels it is to run")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable for the test")
    parser.add_argument("--timeout", type=float, default=1500, metavar="SECONDS", help="default 1500")
    default_cache = REPOSITORY / "build/emulate"
    parser.add_argument("--cache", type=Path, default=default_cache, help="where Bochs is kept; default build/emulate")
    parser.add_argument("--mirror", help="the Debian mirror to download from; default: the one this machine uses")
    parser.add_argument("test", nargs="+", help="a static x86-64 Linux binary and its arguments, after --")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leaving by an exit ends Bochs too
    try:
        guest.check_runs_in_guest(Path(options.test[0]))
        cache = options.cache.resolve()
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two runs may start at once
            debian.fill(cache, options.mirror)
        return emulate(CPUS[options.cpu], cache, options.test, options.env, options.timeout)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"emulate_x86: {error}", file=sys.stderr)
        return EMULATOR_FAILED


if __name__ == "__main__":
    sys.exit(main())
