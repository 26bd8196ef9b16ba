"""Compresses in child processes that are killed at random moments, until one ends; run by test_compress_kill.py.

    python kill_compress.py FOLDER ROUNDS SEED RECIPE

RECIPE is a function of compress_models.py.

A child is killed after a random time, or just before or after one of the moments at which a file gets its name.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import compress_models
import torch
from forked import finished, start

from edgekern import compress

STEPS = 24
renames = 0


def counted(replace, dies_at, before):
    """``os.replace`` that kills the process at one of its calls, before it or after."""

    def wrapped(*arguments):
        global renames
        renames += 1
        if renames == dies_at and before:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*arguments)
        if renames == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    return wrapped


def whole_run(folder: Path, dies_at: int = 0, before: bool = False) -> None:
    """A run, in a process of its own."""
    os.replace = counted(os.replace, dies_at, before)
    recipe = getattr(compress_models, sys.argv[4])(STEPS)
    compress(compress_models.build, recipe, folder, compress_models.data(), progress=False)
    folder.with_suffix(".renames").write_text(str(renames))


def killed_now_and_then(folder: Path, seconds: float, calls: int, choose: random.Random) -> list[str]:
    """A run to its end; says where it was killed."""
    kills: list[str] = []
    while True:
        by_time = choose.random() < 0.5
        if len(kills) == 4:
            child = start(whole_run, folder)
        elif by_time:
            moment = choose.uniform(0, seconds)
            child = start(whole_run, folder)
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
        else:
            number, before = choose.randrange(1, calls + 1), choose.random() < 0.5
            child = start(whole_run, folder, number, before)
        if finished(child):
            return kills
        kills.append(f"{moment:.3f}s" if by_time else f"{'before' if before else 'after'}-rename-{number}")


def main() -> None:
    """Prints where there were kills, a line for each round."""
    root, rounds, choose = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    torch.set_num_threads(1)
    begun = time.perf_counter()
    finished(start(whole_run, root / "whole"))
    seconds = time.perf_counter() - begun
    calls = int((root / "whole.renames").read_text())
    for number in range(rounds):
        folder = root / f"round{number}"
        while not (kills := killed_now_and_then(folder, seconds, calls, choose)):
            shutil.rmtree(folder)  # it was quicker than the kill
        print(" ".join(kills), flush=True)


if __name__ == "__main__":
    main()
