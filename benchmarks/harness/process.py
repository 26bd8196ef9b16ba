"""The parent's side of a worker: start it, ask it, and stop it dead between questions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent.parent


class WorkerError(RuntimeError):
    """The subject could not do what it was asked; the message is its own."""


class Worker:
    """A subject in its own process.

    Between requests the process is stopped (SIGSTOP): a thread pool that spins while it waits for work, as most do by
    default, would otherwise take a core from whoever is being measured. The rivals keep their own spinning habits,
    since those are part of how fast they are.

    `python` runs it: a rival may need a virtual environment of its own.
    """

    def __init__(self, name: str, threads: int, environment: dict[str, str], python: str = sys.executable) -> None:
        if shutil.which(python) is None:
            raise WorkerError(f"{name}: there is no Python at {python}; benchmarks/README.md says how to make it")
        self.name = name
        self.threads = threads
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in close())
        env = {**os.environ, **environment, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(BENCHMARKS), env.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [python, "-m", "harness.worker", name, str(threads)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            self.versions: dict[str, str] = self._read()["versions"]
        except BaseException:
            self.close()
            raise
        self._stop()

    def _stop(self) -> None:
        """Stop the process, and return once it has stopped or ended."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            tail = self._log.read()[-2000:].strip()
            raise WorkerError(f"{self.name}: the process ended with code {code}\n{tail}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"{self.name}: {reply['error']}")
        return reply

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return self._read()
        except BrokenPipeError:
            raise WorkerError(f"{self.name}: the process is gone") from None
        finally:
            if self._process.poll() is None:
                self._stop()

    def prepare(self, task: dict[str, Any]) -> dict[str, Any]:
        """Build what `task` needs and check it; returns the subject's facts. Raises WorkerError."""
        return self._ask(do="prepare", task=task)

    def sample(self, seconds: float) -> list[float]:
        """Time the prepared task for about `seconds`; returns seconds a call. Raises WorkerError."""
        return self._ask(do="sample", seconds=seconds)["samples"]

    def repeat(self, seconds: float) -> int:
        """Run the prepared task for about `seconds`, at least once; returns how often. Raises WorkerError."""
        return self._ask(do="repeat", seconds=seconds)["calls"]

    def profile(self) -> dict[str, float]:
        """Seconds a call spends in each part of the prepared task. Raises WorkerError."""
        return self._ask(do="profile")["profile"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with suppress(BrokenPipeError):  # a request that a dead process did not read is still in the buffer
                if stream is not None:
                    stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
