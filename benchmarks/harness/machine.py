"""What the results were measured on, and whether anybody else was using it meanwhile."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# The instruction sets that decide which kernels anybody runs; the rest of the flags say nothing here.
FLAGS_OF_INTEREST = re.compile(r"^(avx.*|amx.*|fma|f16c|gfni|vpclmulqdq|asimd.*|sve.*|i8mm|bf16)$")
QUIET_SHARE = 0.05  # of all cores; more foreign load than this and the figures are marked


def _cpuinfo() -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def _last_level_cache_bytes() -> int | None:
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        sizes.append(int(path.read_text().strip().rstrip("K")) * 1024)
    return max(sizes, default=None)


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def describe_machine() -> dict[str, Any]:
    """CPU, caches, memory, system and commit, as the header of a results file wants them."""
    cpuinfo = _cpuinfo()
    model = cpuinfo.get("model name") or platform.machine()
    numbers = [cpuinfo[key] for key in ("cpu family", "model") if key in cpuinfo]
    commit = _git("rev-parse", "--short=12", "HEAD")
    return {
        "cpu": model,
        "cpu_family_model": "-".join(numbers),
        "cpu_flags": sorted(
            flag
            for flag in (cpuinfo.get("flags") or cpuinfo.get("Features", "")).split()
            if FLAGS_OF_INTEREST.match(flag)
        ),
        "cores": len(os.sched_getaffinity(0)),
        "last_level_cache_bytes": _last_level_cache_bytes(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": commit + ("-modified" if commit and _git("status", "--porcelain") else ""),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def cpu_slug(machine: dict[str, Any]) -> str:
    """A file name's worth of CPU: "amd-epyc-25-1". Family and model keep apart chips that share a brand name."""
    text = f"{machine['cpu']} {machine['cpu_family_model']}".lower()
    text = re.sub(r"\((r|tm)\)|\bcpu\b|@.*ghz|\d+-core|processor", " ", text)
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def _system_ticks() -> tuple[int, int]:
    """Clock ticks of all cores since boot: (all, those not idle). Time stolen by other guests counts as not idle."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy + idle + iowait, busy


def ticks_of(pid: int) -> int:
    """Clock ticks that a process has used, 0 once it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    utime, stime = text.rpartition(")")[2].split()[11:13]
    return int(utime) + int(stime)


class LoadMeter:
    """Share of all cores that others than the given processes, and this one, have used since the start."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = (*pids, os.getpid())
        self._start = self._read()

    def _read(self) -> tuple[int, int, int]:
        return (*_system_ticks(), sum(ticks_of(pid) for pid in self._pids))

    def foreign_share(self) -> float:
        """0 on a quiet machine, 1 when others took every core the whole time."""
        total, busy, own = (now - then for now, then in zip(self._read(), self._start, strict=True))
        return min(1.0, max(0.0, (busy - own) / total)) if total > 0 else 0.0


def warn_if_loaded() -> str:
    """A sentence when others keep the machine busy before we start, else "". Takes a second."""
    load = LoadMeter([])
    time.sleep(1.0)
    busy = load.foreign_share()
    if busy <= QUIET_SHARE:
        return ""
    return f"Others are using {busy:.0%} of this machine's cores: expect slow and scattered figures."
