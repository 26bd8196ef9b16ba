"""Fills a private folder with what an emulated machine is made of: Bochs and a Linux kernel, both from Debian.

Bochs runs with the loader and libraries it was unpacked with, so the host may be an older Debian than the packages'.
"""

from __future__ import annotations

import re
import shutil
import struct
import sys
import tempfile
from pathlib import Path

from private_apt import PrivateApt, run

SUITE = "trixie"  # the first Debian with Bochs 3.0, the first Bochs with an AVX-VNNI CPU
PACKAGES = ["bochs", "bochs-term", "zstd"]
KERNEL_PACKAGE = "linux-image-cloud-amd64"  # names the current kernel's package

SOURCES = Path(__file__).resolve().parent
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def fill(cache: Path, mirror: str | None) -> None:
    """Makes cache/root (Bochs), cache/vmlinux, cache/boot.rom and cache/init, unless they are there and up to date.

    Raises RuntimeError when a tool, the mirror or a package is missing.
    """
    installed = cache / "installed"
    made_from = "".join((SOURCES / name).read_text() for name in ("debian.py", "boot.S", "init.cc"))
    if installed.exists() and installed.read_text() == made_from:
        return
    print(f"emulate_x86: filling {cache} with Bochs and Linux", file=sys.stderr)
    for tool in ("apt-get", "dpkg-deb", "c++"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"{tool} is needed and not installed")
    root = cache / "root"
    shutil.rmtree(root, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        apt = PrivateApt(Path(scratch), mirror, SUITE, "amd64")
        apt.download(*PACKAGES)
        kernel = re.search(r"^Depends: (linux-image-[^\s,]+)", apt("cache", "show", KERNEL_PACKAGE), re.MULTILINE)
        if kernel is None:
            raise RuntimeError(f"{KERNEL_PACKAGE} names no kernel package")
        apt("get", "download", kernel[1])
        apt.unpack(root)
    vmlinuz = next(root.glob("boot/vmlinuz-*"))
    (cache / "vmlinux").write_bytes(unpack_kernel(vmlinuz.read_bytes(), root))
    linker = "-Wl,--build-id=none,-Ttext=0xf0000,--oformat=binary,-e,0"
    run(["c++", "-nostdlib", "-static", linker, SOURCES / "boot.S", "-o", cache / "boot.rom"])
    run(["c++", "-std=c++20", "-O2", "-static", SOURCES / "init.cc", "-o", cache / "init"])
    installed.write_text(made_from)


def command(root: Path, program: str) -> list[str | Path]:
    """A command that runs an unpacked program with the loader and libraries unpacked beside it."""
    return [root / LIBRARIES / "ld-linux-x86-64.so.2", "--library-path", root / LIBRARIES, root / program]


def unpack_kernel(vmlinuz: bytes, root: Path) -> bytes:
    """The ELF kernel inside a bzImage: unpacked here, it saves the emulated CPU some 600 million instructions.

    Offsets: Documentation/arch/x86/boot.rst in the Linux sources (setup_sects, payload_offset, payload_length).
    """
    setup_sectors = vmlinuz[0x1F1]
    offset, length = struct.unpack_from("<II", vmlinuz, 0x248)
    payload = vmlinuz[(setup_sectors + 1) * 512 + offset :][: length - 4]  # the last word is the unpacked size
    if not payload.startswith(b"\x28\xb5\x2f\xfd"):
        raise RuntimeError("the kernel is not packed with zstd, the one packing this script knows")
    return run([*command(root, "usr/bin/zstd"), "-dc"], input=payload)
