"""Which cores a process runs on: the big ones, where a CPU has cores of two kinds, and each rank its own.

Threads that wait for each other are as fast as the slowest of them, so a little core among big ones costs more than it
brings. Linux says which are which: ``cpu_capacity`` on ARM, the lists of ``cpu_core`` and ``cpu_atom`` on Intel's
hybrid CPUs, and elsewhere the highest frequency.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from edgekern.energy.host import Host

_CPUS = "sys/devices/system/cpu"
_ALIKE = 0.95
"""Of the highest capacity or frequency: cores of one kind differ by a little, those of another kind by more."""
_KINDS = ("big", "little", "all")


@dataclass(frozen=True)
class Core:
    """One logical CPU.

    Attributes:
        cpu: its number.
        big: whether it is of the fastest kind there is.
        strength: what that was seen from: capacity, kHz, or 1 on Intel's P- and 0 on its E-cores; 0 where nothing is
            said.
        sibling: whether another CPU of a lower number is a thread of the same core.
    """

    cpu: int
    big: bool
    strength: int
    sibling: bool


def cores(host: Host | None = None, allowed: Collection[int] | None = None) -> list[Core]:
    """The CPUs that this process may run on.

    Args:
        host: another machine's files; for tests.
        allowed: their numbers; those that the system allows, where nothing is said.
    """
    host = host or Host()
    numbers = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    strengths = _strengths(host, numbers)
    most = max(strengths.values(), default=0)
    return [
        Core(cpu, strengths[cpu] >= _ALIKE * most, strengths[cpu], _first_thread(host, cpu, numbers) != cpu)
        for cpu in numbers
    ]


def choose_cores(
    found: Sequence[Core], kind: str = "big", *, rank: int = 0, ranks: int = 1, siblings: bool = False
) -> list[int]:
    """The CPUs of one of several processes on this machine: no two share one, as long as there are enough.

    Args:
        found: what :func:`cores` gives.
        kind: "big", "little" or "all".
        rank: which process of this machine.
        ranks: how many there are on it.
        siblings: whether to use both threads of a core; its arithmetic units are the same for both.

    Raises:
        ValueError: another kind, a rank that is none, or no such cores.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind: expected one of {', '.join(_KINDS)}; got {kind!r}")
    if not 0 <= rank < ranks:
        raise ValueError(f"rank: expected from 0 to {ranks - 1}, got {rank}")
    usable = [core.cpu for core in found if kind == "all" or core.big == (kind == "big")]
    if not usable:
        raise ValueError(f"kind: this machine has no {kind} cores; it has {len(found)} of one kind: 'big' or 'all'")
    whole = [core.cpu for core in found if core.cpu in usable and not core.sibling]
    chosen = usable if siblings or not whole else whole
    if len(chosen) < ranks:
        return [chosen[rank % len(chosen)]]
    ends = [len(chosen) * i // ranks for i in range(ranks + 1)]
    return chosen[ends[rank] : ends[rank + 1]]


def pin(kind: str = "big", *, rank: int | None = None, ranks: int | None = None, siblings: bool = False) -> list[int]:
    """Keeps this process, with all its threads, on some cores, and gives torch as many threads.

    To be called first: memory that is in use already stays where it is.

    Args:
        kind, siblings: as for :func:`choose_cores`.
        rank: which process of this machine it is; what torchrun says (LOCAL_RANK), or 0.
        ranks: how many there are on it; what torchrun says (LOCAL_WORLD_SIZE), or 1.

    Returns:
        The CPUs.

    Raises:
        ValueError: as for :func:`choose_cores`.
        OSError: a system where processes cannot be kept on cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise OSError("pin: only Linux keeps processes on cores; leave it out elsewhere")
    rank = int(os.environ.get("LOCAL_RANK", "0")) if rank is None else rank
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if ranks is None else ranks
    chosen = choose_cores(cores(), kind, rank=rank, ranks=ranks, siblings=siblings)
    for thread in os.listdir("/proc/self/task"):  # threads that are there already have places of their own
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), chosen)
    torch.set_num_threads(len(chosen))
    return chosen


def _strengths(host: Host, numbers: Sequence[int]) -> dict[int, int]:
    performance = _listed(host.text("sys/devices/cpu_core/cpus"))
    if performance and host.text("sys/devices/cpu_atom/cpus"):
        return {cpu: int(cpu in performance) for cpu in numbers}
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        texts = {cpu: host.text(f"{_CPUS}/cpu{cpu}/{name}") for cpu in numbers}
        found = {cpu: int(text) for cpu, text in texts.items() if text is not None and text.isdigit()}
        if len(found) == len(numbers):
            return found
    return dict.fromkeys(numbers, 0)


def _first_thread(host: Host, cpu: int, numbers: Sequence[int]) -> int:
    siblings = _listed(host.text(f"{_CPUS}/cpu{cpu}/topology/thread_siblings_list")) & set(numbers)
    return min(siblings, default=cpu)


def _listed(text: str | None) -> set[int]:
    """Of what Linux writes, as 0-3,8."""
    found: set[int] = set()
    for part in (text or "").split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found.update(range(int(first), int(last or first) + 1))
    return found
