"""Noticing ranks that die without a word: each says every second that it lives, and watches the others.

A process that dies closes its connections, and whoever waits for it is told at once. A board that loses its power or
its network does not, and a process that was stopped does not either. So each rank counts in a store that all can reach,
on a connection of its own, in a thread: a long computation does not keep it from counting.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence

from torch._C._distributed_c10d import Store

from edgekern.parallel.errors import ParallelError, RankFailedError, RankLostError

GRACE_SECONDS = 5.0
"""That the main thread has to end by itself once a rank is lost. One that waits inside of torch cannot be woken."""
FAILED = 1
"""Exit status of a process that is ended from here."""


class Monitor(threading.Thread):
    """Counts for one rank, and watches the others' counts.

    Args:
        store: one that nothing else uses: an operation of another thread would hold this one's up.
        rank: this one.
        size: of the group.
        silence_seconds: that a rank may be silent.
    """

    def __init__(self, store: Store, rank: int, size: int, silence_seconds: float) -> None:
        super().__init__(name="edgekern-monitor", daemon=True)
        self._store, self._rank, self._silence = store, rank, silence_seconds
        self._pause = min(1.0, silence_seconds / 5)
        self._heard = 0.0
        self._said: ParallelError | None = None
        self._others = [other for other in range(size) if other != rank]
        self._ended = threading.Event()
        self._noticed = threading.Event()
        self.failure: ParallelError | None = None
        """What the main thread should raise; None as long as all are well."""
        # Before any other can look, so that asking never waits for a key.
        store.set(f"beat/{rank}", "0")
        store.set(f"note/{rank}", "")

    def run(self) -> None:
        """Until ``stop``, or until a rank is lost: then the process ends, if the main thread does not end it before."""
        self.failure = self._wait()
        if self.failure is None:
            return
        self._noticed.set()
        if not self._ended.wait(GRACE_SECONDS):
            text = "".join(traceback.format_exception_only(type(self.failure), self.failure))
            print(f"rank {self._rank}: {text}", end="", file=sys.stderr, flush=True)
            os._exit(FAILED)

    def _wait(self) -> ParallelError | None:
        """What goes wrong. A call of the store does not return while the network is down: another thread calls it."""
        self._heard = time.monotonic()
        asking = threading.Thread(target=self._ask, name="edgekern-heartbeat", daemon=True)
        asking.start()
        while not self._ended.wait(self._pause / 2):
            if self._said is not None:
                return self._said
            if (silent := time.monotonic() - self._heard) > self._silence + self._pause:
                return RankLostError(
                    f"the store that all ranks share has not answered for {silent:.0f} s; is the network down, or the "
                    "board of rank 0?"
                )
        return None

    def stop(self) -> None:
        """Watches no longer."""
        self._ended.set()

    def wait_for_failure(self, seconds: float) -> ParallelError | None:
        """What is wrong, once that is known, at the latest after ``seconds``."""
        self._noticed.wait(seconds)
        return self.failure

    def say(self, note: str) -> None:
        """Tells the others, as far as they can be reached, why this rank ends."""
        try:
            self._store.set(f"note/{self._rank}", note[:2000] or "it said nothing")
        except RuntimeError:  # then they notice by themselves
            return

    def _ask(self) -> None:
        """Counts, and asks for the others' counts, until something is wrong."""
        beats, keys = 0, [f"{key}/{other}" for key in ("beat", "note") for other in self._others]
        seen: dict[int, tuple[bytes, float]] = {}
        while not self._ended.wait(self._pause):
            beats += 1
            try:
                self._store.set(f"beat/{self._rank}", str(beats))
                values = self._store.multi_get(keys) if keys else []
            except RuntimeError as error:
                self._said = RankLostError(
                    "the store that all ranks share cannot be reached; has the process that keeps it, torchrun or rank "
                    f"0, ended? ({first_line(error)})"
                )
                return
            self._heard = time.monotonic()
            self._said = self._judge(values, seen)
            if self._said is not None:
                return

    def _judge(self, values: Sequence[bytes], seen: dict[int, tuple[bytes, float]]) -> ParallelError | None:
        now, count = time.monotonic(), len(self._others)
        for other, beat, note in zip(self._others, values[:count], values[count:], strict=True):
            if note:
                return RankFailedError(f"rank {other} has failed: {note.decode(errors='replace')}")
            if other not in seen or seen[other][0] != beat:
                seen[other] = (beat, now)
            elif now - seen[other][1] > self._silence:
                return RankLostError(
                    f"rank {other} has been silent for {now - seen[other][1]:.0f} s; was it stopped, or is its board "
                    "or the network down?"
                )
        return None


def first_line(error: BaseException) -> str:
    """Of its message; torch's go on with a stack of C++ functions."""
    return next(iter(str(error).splitlines()), type(error).__name__)
