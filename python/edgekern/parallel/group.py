"""The processes that work together: how they find each other, agree, and end together."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from edgekern.parallel.errors import (
    ParallelError,
    RankFailedError,
    RankLostError,
    RankMismatchError,
    StartError,
)
from edgekern.parallel.monitor import Monitor, first_line

if TYPE_CHECKING:
    from typing_extensions import Self

START_SECONDS = 60.0
SILENCE_SECONDS = 15.0
_OPERATION = timedelta(hours=6)
"""That gloo may wait for a rank that is alive: it may have much to compute. Whether it is alive, the monitor knows."""
_CAUSE_SECONDS = 1.5
"""To wait, once a connection is closed, for a word about why: the monitor asks every second."""
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_joined = itertools.count()


class Group:
    """All ranks; made by :func:`join`, and left by ``with``, or ``close``.

    Left with an exception, it tells the others what it was, and they raise RankFailedError.

    Attributes:
        rank: this process's, from 0 on.
        size: number of processes.
    """

    def __init__(self, rank: int, size: int, monitor: Monitor, *, keeps_store: bool) -> None:
        self.rank, self.size = rank, size
        self._monitor, self._keeps_store = monitor, keeps_store
        self._closed = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._abandon(error)

    def close(self) -> None:
        """Waits until all ranks are here, and leaves. Raises as everything here does when one does not come."""
        if self._closed:
            return
        with self.talking("leaving together"):
            dist.barrier()
        self._leave()
        dist.destroy_process_group()

    def check(self) -> None:
        """Raises what the monitor has noticed, if anything."""
        if self._monitor.failure is not None:
            raise self._monitor.failure

    @contextmanager
    def talking(self, doing: str, other: int | None = None) -> Iterator[None]:
        """Around calls of torch.distributed: what they raise becomes an error that says who is lost and why.

        Raises:
            RankLostError, RankFailedError: another rank is gone.
        """
        self.check()
        try:
            yield
        except ParallelError:
            raise
        except RuntimeError as error:
            known = self._monitor.wait_for_failure(_CAUSE_SECONDS)
            if known is not None:
                raise known from error
            whom = "another rank" if other is None else f"rank {other}"
            raise RankLostError(f"rank {self.rank} has lost {whom} while {doing}: {first_line(error)}") from error

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """``tensor`` of rank ``source``, in place, on all."""
        if self.size > 1:
            with self.talking(f"taking part in a message of rank {source}", source):
                dist.broadcast(tensor, source)
        return tensor

    def gather(self, text: str) -> list[str]:
        """Every rank's text. Plain bytes are sent: nothing that a rank says is run by another."""
        if self.size == 1:
            return [text]
        data = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self.talking("comparing notes"):
            dist.all_gather(sizes, torch.tensor([len(data)]))
            longest = max(map(int, sizes))
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(data)] = data
            parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(parts, padded)
        found = [part[: int(size)].numpy().tobytes() for part, size in zip(parts, sizes, strict=True)]
        return ["" if each == b"\0" else each.decode() for each in found]

    def agree(self, what: str, value: str) -> None:
        """Makes sure that all ranks have the same.

        Raises:
            RankMismatchError: on every rank, when one has another value.
        """
        values = self.gather(value)
        others = [rank for rank, other in enumerate(values) if other != values[0]]
        if others:
            shown = "; ".join(f"rank {rank} has {values[rank][:200]}" for rank in (0, others[0]))
            raise RankMismatchError(f"{what} must be the same on all ranks: {shown}")

    @contextmanager
    def together(self, doing: str) -> Iterator[None]:
        """What all ranks do: when it fails on one, it fails on all.

        Raises:
            RankFailedError: it has failed on another rank; where it fails, the error itself is raised.
        """
        try:
            yield
        except ParallelError:
            raise
        except Exception as error:
            self.gather(f"{type(error).__name__}: {error}")
            raise
        said = self.gather("")
        failed = [rank for rank, text in enumerate(said) if text]
        if failed:
            raise RankFailedError(f"rank {failed[0]} failed while {doing}: {said[failed[0]]}")

    # ------------------------------------------------------------------------------------------ leaving

    def _abandon(self, error: BaseException) -> None:
        # torchrun sends SIGTERM to all others as soon as one has ended; this error is to be read before.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not isinstance(error, RankLostError):  # the store may be lost too
            self._monitor.say(f"{type(error).__name__}: {first_line(error)}")
        if self.size > 1 and self._keeps_store:
            time.sleep(_CAUSE_SECONDS)  # the store ends with this process, and the others ask it every second
        self._leave(restore=False)

    def _leave(self, *, restore: bool = True) -> None:
        self._closed = True
        self._monitor.stop()
        if restore and self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _mind_sigterm(self) -> None:
        """Lets a SIGTERM be an error with a name, where the program has nothing else in mind."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._previous = signal.signal(signal.SIGTERM, self._terminated)

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        known = self._monitor.wait_for_failure(_CAUSE_SECONDS)
        raise known or RankLostError(
            f"rank {self.rank} was told to end (SIGTERM); torchrun does so when another rank has ended"
        )


def join(*, start_seconds: float = START_SECONDS, silence_seconds: float = SILENCE_SECONDS) -> Group:
    """Brings together the processes that ``torchrun`` has started, or whoever sets RANK, WORLD_SIZE, MASTER_ADDR and
    MASTER_PORT as it does; over gloo.

    From then on ranks watch each other: when one dies, is silent for ``silence_seconds`` or fails, all others raise
    an error that says so. One that cannot raise, because it waits inside of torch, is ended some seconds later, with
    that error on stderr and exit status 1.

    Args:
        start_seconds: that ranks wait for each other at the start.
        silence_seconds: that a rank may be silent; a board without power or network is.

    Raises:
        StartError: not all came in time, the message says which; or a variable is missing; or two have one rank.
        RankMismatchError: ranks were started with different world sizes.
        ValueError: times that are not above 0.
    """
    if not (start_seconds > 0 and silence_seconds > 0):
        raise ValueError(f"start_seconds, silence_seconds: must be above 0; got {start_seconds}, {silence_seconds}")
    if dist.is_initialized():
        raise StartError("torch.distributed is in use already; close the other group first")
    rank, size, host, port = _environment()
    deadline = time.monotonic() + start_seconds
    # A restart by torchrun finds the store as it was left, and so does a program that joins a second time.
    prefix = f"edgekern/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_joined)}"
    keeps = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = _store(prefix, host, port, keeps, start_seconds)
    own = _store(f"{prefix}/monitor", host, port, False, start_seconds)
    monitor = Monitor(own, rank, size, silence_seconds)
    try:
        _meet(store, rank, size, deadline, start_seconds)
    except ParallelError:
        if keeps:
            time.sleep(_CAUSE_SECONDS)  # for the others to see it too: the store ends with this process
        raise
    try:
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_OPERATION)
    except RuntimeError as error:
        raise StartError(f"rank {rank} cannot connect to the others: {first_line(error)}") from error
    group = Group(rank, size, monitor, keeps_store=keeps)
    monitor.start()
    group._mind_sigterm()
    return group


def _environment() -> tuple[int, int, str, int]:
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing:
        raise StartError(f"{', '.join(missing)} not set; start the program with: torchrun --nproc-per-node=2 PROGRAM")
    try:
        rank, size, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    except ValueError as error:
        raise StartError(f"RANK, WORLD_SIZE and MASTER_PORT must be whole numbers: {error}") from None
    if not 0 <= rank < size:
        raise StartError(f"RANK must be from 0 to WORLD_SIZE - 1, {size - 1}; got {rank}")
    return rank, size, os.environ["MASTER_ADDR"], port


def _store(prefix: str, host: str, port: int, keeps: bool, seconds: float) -> Store:
    try:
        store = TCPStore(
            host, port, is_master=keeps, timeout=timedelta(seconds=seconds), wait_for_workers=False, multi_tenant=True
        )
    except RuntimeError as error:
        what = "cannot be listened on" if keeps else f"does not answer within {seconds:g} s; is rank 0 started there?"
        raise StartError(f"{host}:{port} {what} ({first_line(error)})") from error
    return PrefixStore(prefix, store)


def _meet(store: Store, rank: int, size: int, deadline: float, seconds: float) -> None:
    """Returns when all are there."""
    try:
        store.set(f"here/{rank}", str(size))
        if store.add(f"count/{rank}", 1) > 1:
            raise StartError(f"two processes were started as rank {rank}")
        absent = [other for other in range(size) if other != rank]
        while absent:
            for other in [other for other in absent if store.check([f"here/{other}"])]:
                theirs = int(store.get(f"here/{other}"))
                if theirs != size:
                    raise RankMismatchError(
                        f"the world size must be the same on all ranks: rank {rank} was started with {size}, rank "
                        f"{other} with {theirs}"
                    )
                absent.remove(other)
            if absent and time.monotonic() > deadline:
                who = ", ".join(map(str, absent))
                raise StartError(f"of {size} ranks, {who} did not come within {seconds:g} s; were they all started?")
            if absent:
                time.sleep(0.02)
    except ParallelError:
        raise
    except RuntimeError as error:
        raise StartError(f"rank {rank} has lost the store of rank 0 at the start: {first_line(error)}") from error
