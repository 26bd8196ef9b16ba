"""How much memory this process may still take."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path

from edgekern.energy.host import Host

_LIMITS = ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData"))
_CGROUPS = (
    ("memory.max", "memory.current", "sys/fs/cgroup"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "sys/fs/cgroup/memory"),
)


def free_memory(host: Host | None = None) -> int:
    """Bytes: the least of what the system has available and what limits (ulimit, cgroups) leave."""
    host = host or Host()
    return max(0, min(_left(host)))


def _left(host: Host) -> Iterator[int]:
    status, found = host.text("proc/self/status") or "", host.text("proc/meminfo") or ""
    if available := _kilobytes(found, "MemAvailable"):
        yield available
    for limit, used in _LIMITS:
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            yield soft - (_kilobytes(status, used) or 0)
    yield from _cgroups(host)
    yield 1 << 62  # where nothing says anything


def _cgroups(host: Host) -> Iterator[int]:
    """Of each group that holds this process, from its own up to the root."""
    for line in (host.text("proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for limit, usage, root in _CGROUPS:
            if root.endswith("memory") != ("memory" in controllers.split(",")):
                continue
            folder = Path(path.lstrip("/"))
            for each in (folder, *folder.parents):
                most, now = (host.text(Path(root) / each / name) for name in (limit, usage))
                if most and now and most.isdigit() and now.isdigit():
                    yield int(most) - int(now)


def _kilobytes(text: str, name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None
