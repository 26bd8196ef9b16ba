"""The frequency governors of the cores: which there are, and how to try them without leaving one behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekern.energy.host import Host
from edgekern.nn.swap import uninterrupted

_FOLDER = "sys/devices/system/cpu/cpufreq"


@dataclass(frozen=True)
class Governors:
    """What can be set."""

    names: tuple[str, ...] = ()
    """Those that every group of cores has; none where none can be set."""
    files: tuple[Path, ...] = ()
    """One for each group of cores."""
    why_none: str = ""
    """Why none can be set, and what helps."""


def find_governors(host: Host) -> Governors:
    """Those of this machine, if this user may set them."""
    policies = host.folders(f"{_FOLDER}/policy*")
    if not policies:
        where = f"there is no {host.root / _FOLDER}/policy*"
        virtual = (
            "a virtual machine's host sets its cores' frequency" if host.is_virtual else "no driver sets frequencies"
        )
        return Governors(why_none=f"{where}: {virtual}")
    files = tuple(policy / "scaling_governor" for policy in policies)
    for file in files:
        if not os.access(file, os.W_OK):
            advice = f"run as root, or: sudo chmod a+w {host.root / _FOLDER}/policy*/scaling_governor"
            return Governors(why_none=f"{file} may not be written by this user; {advice}")
    every = [(host.text(policy / "scaling_available_governors") or "").split() for policy in policies]
    common = tuple(name for name in every[0] if all(name in names for names in every) and name != "userspace")
    why = "" if common else f"{policies[0]}/scaling_available_governors names none"
    return Governors(common, files, why)


@contextmanager
def trying(governors: Governors) -> Iterator[Callable[[str], None]]:
    """Inside, what this gives sets a governor for all cores; at the end each group of cores has its own again.

    That is so after errors too, and Ctrl-C waits for it.

    Raises:
        RuntimeError: a governor could not be set, or not put back; the message says how to do that by hand.
    """
    before: dict[Path, str] = {}  # of those that were set

    def use(name: str) -> None:
        for file in governors.files:
            before.setdefault(file, file.read_text().strip())
            if error := _failure(file, name):
                raise RuntimeError(error)

    try:
        yield use
    finally:
        with uninterrupted():
            failed = [error for file, name in before.items() if (error := _failure(file, name))]
        if failed:
            raise RuntimeError("; ".join(failed))


def _failure(file: Path, name: str) -> str:
    """Sets a governor; what went wrong, if something did."""
    try:
        file.write_text(name)
        now = file.read_text().strip()
    except OSError as error:
        now = str(error.strerror)
    return "" if now == name else f"{file} could not be set to {name} ({now}); run: echo {name} | sudo tee {file}"
