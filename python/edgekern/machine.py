"""What a number was measured on: CPU, kernels, threads, versions and commit, as plain JSON values."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgekern import kernels
from edgekern._lib import core

_PACKAGES = ("torch", "numpy", "transformers")


def describe_machine() -> dict[str, Any]:
    """This machine and this build, now.

    Keys: cpu, features, cores, isa, isa_forced, threads, load (runnable processes over the last minute: well above 0
    before a measurement means that others compute too), versions, system, commit (None outside a checkout).

    Raises:
        RuntimeError: EDGEKERN_ISA names an ISA that is unknown or that this CPU cannot run.
    """
    cpu = kernels.cpu()
    return {
        "cpu": cpu["name"],
        "features": cpu["features"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "isa": kernels.default_isa(),
        "isa_forced": os.environ.get("EDGEKERN_ISA") or None,
        "threads": kernels.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {"edgekern": core.version, "python": platform.python_version(), **_package_versions()},
        "system": f"{platform.system()} {platform.machine()}",
        "commit": commit_of_checkout(Path.cwd()),
    }


def commit_of_checkout(folder: Path) -> str | None:
    """Short hash of the commit checked out in `folder`, with "-dirty" after it when files differ from it.

    None when `folder` is not the top of an edgekern checkout, when it has no commit, or when git is absent.
    """
    if not (folder / "csrc/include/edgekern/edgekern.h").exists():
        return None
    try:
        command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _package_versions() -> dict[str, str | None]:
    return {name: _installed_version(name) for name in _PACKAGES}


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
