"""A subject's own process: reads one JSON request a line on stdin, answers with one JSON line on stdout.

Started by harness.process as:

    python -m harness.worker SUBJECT THREADS
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO

# Short calls are timed in batches, so that reading the clock (about 50 ns) stays far below 1 % of a sample.
BATCH_SECONDS = 100e-6
WARMUP_SECONDS = 5e-3


def time_calls(calls: Sequence[Callable[[], Any]], seconds: float, start: int = 0) -> tuple[list[float], int]:
    """Run `calls` in rotation for about `seconds`, after a warm-up.

    A call longer than `seconds` is run once: it warms itself up. Returns seconds a call, one number a sample, and the
    position in the rotation to go on from.
    """
    clock = time.perf_counter
    position = start
    began = clock()
    warm_calls = 0
    while warm_calls == 0 or clock() - began < WARMUP_SECONDS:
        calls[position % len(calls)]()
        position += 1
        warm_calls += 1
    per_call = (clock() - began) / warm_calls
    if per_call > seconds:
        return [per_call], position
    # A rotation goes through cold memory: there the calls are timed one by one, as they never are alike.
    batch = max(1, round(BATCH_SECONDS / per_call)) if len(calls) == 1 else 1
    samples: list[float] = []
    deadline = clock() + seconds
    while not samples or clock() < deadline:
        if batch == 1:
            call = calls[position % len(calls)]
            began = clock()
            call()
            samples.append(clock() - began)
        else:
            call = calls[0]
            began = clock()
            for _ in range(batch):
                call()
            samples.append((clock() - began) / batch)
        position += batch
    return samples, position


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Installed version of each distribution; "source tree" for one that runs without being installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source tree"
    return found


def serve(name: str, threads: int, requests: TextIO, replies: TextIO) -> None:
    """Answer requests until stdin closes. An exception becomes {"error": ...} and the worker lives on."""
    from harness.subject import load_subject

    def answer(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    try:
        subject = load_subject(name, threads)
    except Exception as error:  # whatever the rival raises is the answer
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}"})
        return
    answer({"versions": package_versions(subject.packages)})
    position = 0
    with subject.session():
        for line in requests:
            request = json.loads(line)
            try:
                if request["do"] == "prepare":
                    position = 0
                    answer(subject.prepare(**request["task"]))
                elif request["do"] == "sample":
                    gc.disable()
                    samples, position = time_calls(subject.calls, request["seconds"], position)
                    gc.enable()
                    answer({"samples": samples})
                elif request["do"] == "repeat":
                    began = position
                    _, position = time_calls(subject.calls, request["seconds"], began)
                    answer({"calls": position - began})
                else:
                    answer({"profile": subject.profile()})
            except Exception as error:
                traceback.print_exc()
                answer({"error": f"{type(error).__name__}: {error}"})


def main() -> None:
    # Libraries print to stdout; the replies keep the real one for themselves.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], int(sys.argv[2]), sys.stdin, replies)


if __name__ == "__main__":
    main()
