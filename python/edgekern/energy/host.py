"""Where sensors are found: a machine's files and commands, and what to say of those that cannot be read."""

from __future__ import annotations

import errno
import os
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# What a driver answers when its device has been pulled out while the file was open, or is about to go.
_GONE = (errno.ENODEV, errno.ENXIO, errno.ENOENT)


class SensorError(Exception):
    """A reading failed; the message names the file, says why, and what helps where something does."""


class SpoiledError(SensorError):
    """A reading after which the sum means nothing, even if later ones succeed."""


def run_command(command: Sequence[str]) -> str:
    """What a command printed.

    Raises:
        FileNotFoundError: there is no such command.
        SensorError: it failed or hung; the message is what it said.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except subprocess.TimeoutExpired:
        raise SensorError(f"`{' '.join(command)}` did not answer within 5 s") from None
    if done.returncode:
        said = " ".join((done.stderr + done.stdout).split())
        raise SensorError(f"`{' '.join(command)}` failed: {said or f'exit status {done.returncode}'}")
    return done.stdout


@dataclass(frozen=True)
class Host:
    """The machine that is measured. Tests put recorded files in the place of its own."""

    root: Path = Path("/")
    machine: str = field(default_factory=platform.machine)
    """As ``platform.machine()`` names its architecture; says which advice applies."""
    run: Callable[[Sequence[str]], str] = run_command

    def folders(self, pattern: str) -> list[Path]:
        """Paths below the root that match, in the order of the numbers in their names."""
        found = [(list(map(int, re.findall(r"\d+", path.name))), path) for path in self.root.glob(pattern)]
        return [path for _, path in sorted(found)]

    def text(self, path: str | Path) -> str | None:
        """A file's text, of a name or a label; None where there is none."""
        try:
            return (self.root / path).read_text(errors="replace").strip("\0\n ") or None
        except OSError:
            return None

    @property
    def is_x86(self) -> bool:
        """Whether it is the kind of machine that has RAPL."""
        return self.machine.lower() in ("x86_64", "amd64", "i686", "i386")

    @property
    def is_virtual(self) -> bool:
        """Whether the CPU says that a hypervisor runs it."""
        return re.search(r"^flags\s*:.*\bhypervisor\b", self.text("proc/cpuinfo") or "", re.MULTILINE) is not None


def read_bytes(path: Path) -> bytes:
    """The start of a file, without the layers of ``open``: readings happen ten times a second beside other work."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 64)
    finally:
        os.close(descriptor)


def read_number(path: Path, access: str | None = None) -> int:
    """The whole number in a file of sysfs.

    Args:
        path: of the file.
        access: what to make readable where that is forbidden, if it is more than this file.

    Raises:
        SensorError: it is not readable, gone, or holds something else.
    """
    try:
        data = read_bytes(path)
    except PermissionError:
        raise SensorError(
            f"{path} may not be read by this user; run: sudo chmod a+r {access or path} (until the next boot)"
        ) from None
    except OSError as error:
        if error.errno in _GONE:
            raise SensorError(f"{path} is gone") from None
        raise SensorError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return int(data)
    except ValueError:
        raise SensorError(f"{path} holds {data[:20].decode(errors='replace')!r}, not a whole number") from None
