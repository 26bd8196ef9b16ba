"""The emulated machine's memory as it is at power-on: a kernel, and an initramfs with the test in it.

The kernel is entered the way Xen's PVH guests are: in 32-bit mode, with the address of a struct hvm_start_info
(include/xen/interface/hvm/start_info.h in the Linux sources) in ebx. boot.S does that jump.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

# Addresses and sizes in bytes. HANDOVER holds the three words that boot.S reads.
MEMORY = 512 << 20
HANDOVER = 0x500
START_INFO, MODULE, MEMORY_MAP = 0x1000, 0x1100, 0x1200
COMMAND_LINE = 0x2000
INITRAMFS = 96 << 20  # above the kernel, which is linked at 16 MiB
INITRAMFS_LIMIT = 128 << 20

KERNEL_OPTIONS = (
    "console=ttyS0,115200 quiet loglevel=4 acpi=off pci=off nosmp noapic nolapic tsc=reliable lpj=1000000 "
    "panic=-1 reboot=t "  # a kernel panic becomes a triple fault, which ends Bochs
    "mitigations=off rodata=off cryptomgr.notests "
    # What no test needs and costs most to start: certificates, a random source, type data for BPF, tracing.
    "initcall_blacklist=load_system_certificate_list,jent_mod_init,bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init,"
    "trace_eval_init,tracer_init_tracefs,event_trace_init,ftrace_check_for_weak_functions"
)

PT_LOAD, PT_INTERP, PT_NOTE, EM_X86_64 = 1, 3, 4, 62  # elf.h


def write_memory(path: Path, vmlinux: bytes, files: dict[str, bytes]) -> None:
    """Writes the memory to `path`; `files` (name -> content, all executable) are the guest's root directory."""
    initramfs = cpio(files)
    if len(initramfs) > INITRAMFS_LIMIT:
        raise ValueError(f"the test has {len(initramfs) >> 20} MiB; the limit is {INITRAMFS_LIMIT >> 20}")
    segments = list(elf_segments(vmlinux))
    entry = pvh_entry(b"".join(content for kind, _, content in segments if kind == PT_NOTE))
    magic, usable = 0x336EC578, 1
    pieces = {
        HANDOVER: struct.pack("<III", entry, START_INFO, MEMORY),
        START_INFO: struct.pack("<IIIIQQQQII", magic, 1, 0, 1, MODULE, COMMAND_LINE, 0, MEMORY_MAP, 2, 0),
        MODULE: struct.pack("<QQQQ", INITRAMFS, len(initramfs), 0, 0),
        MEMORY_MAP: struct.pack("<QQIIQQII", 0, 0x9F000, usable, 0, 1 << 20, MEMORY - (1 << 20), usable, 0),
        COMMAND_LINE: KERNEL_OPTIONS.encode() + b"\0",
        INITRAMFS: initramfs,
        **{address: content for kind, address, content in segments if kind == PT_LOAD},
    }
    with path.open("wb") as image:  # sparse
        for address, content in pieces.items():
            image.seek(address)
            image.write(content)


def check_runs_in_guest(path: Path) -> None:
    """ValueError unless `path` is a static x86-64 ELF binary, the only kind that runs with nothing beside it."""
    test = path.read_bytes()
    machine = struct.unpack_from("<H", test, 18)[0] if test.startswith(b"\x7fELF\x02") else None
    if machine != EM_X86_64 or any(kind == PT_INTERP for kind, _, _ in elf_segments(test)):
        raise ValueError(f"{path} is not a static x86-64 Linux binary; link it with -static")


def elf_segments(elf: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The kind, physical address and content of each segment of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", elf, 32)
    entry_size, count = struct.unpack_from("<HH", elf, 54)
    for header in range(table, table + entry_size * count, entry_size):
        kind, _, offset, _, address, size = struct.unpack_from("<IIQQQQ", elf, header)
        yield kind, address, elf[offset : offset + size]


def pvh_entry(notes: bytes) -> int:
    """The address in the note that Xen calls XEN_ELFNOTE_PHYS32_ENTRY (name "Xen", type 18)."""
    note = re.search(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0(....)", notes, re.DOTALL)
    if note is None:
        raise ValueError("the kernel has no PVH entry")
    return struct.unpack("<I", note[1])[0]


def cpio(files: dict[str, bytes]) -> bytes:
    """An initramfs ("newc" cpio) of executable files, with /proc and /dev to mount on."""
    directories = {"proc": b"", "dev": b""}
    parts = []
    for inode, (name, content) in enumerate([*directories.items(), *files.items(), ("TRAILER!!!", b"")], start=1):
        mode = 0o40755 if name in directories else 0o100755
        path = name.encode() + b"\0"
        fields = [inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0]
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + path
        parts += [header, b"\0" * (-len(header) % 4), content, b"\0" * (-len(content) % 4)]
    return b"".join(parts)
