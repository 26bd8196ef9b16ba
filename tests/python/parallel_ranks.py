"""Ranks for test_parallel*.py: starts processes when it is told to on stdin, and says on stdout what became of them.

Ranks are forked: each is a process of its own, without the seconds that importing torch takes. A line of input is JSON:
scenario, ranks, folder, args, and kill and signal for a rank that is to be ended in the midst.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import torch
import transformers
from parallel_scenarios import PROMPT, SCENARIOS, model_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from harness.slow_link import enter

transformers.logging.set_verbosity_error()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_rank(order: dict, rank: int, port: int) -> None:
    """What a forked process does; it ends as any program does."""
    folder = Path(order["folder"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"rank{rank}.{name}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(order["ranks"]), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(order["ranks"])}
    if "netns" in order:
        enter(order["netns"][rank])
    os.environ |= order.get("env", {}).get(str(rank), {})
    torch.set_num_threads(1)
    try:
        found = SCENARIOS[order["scenario"]](rank, folder, **order.get("args", {}))
        (folder / f"rank{rank}.json").write_text(json.dumps(found))
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    if "kill" in order:  # whether a process really ends after a failure has to be seen
        sys.exit(code)
    os._exit(code)  # to take down all that was imported, page by page, takes seconds


def wait_for(children: dict[int, int], seconds: float) -> dict[int, tuple[int | None, float]]:
    """Exit status and seconds of each rank; None for one that had to be killed in the end."""
    start, ended = time.monotonic(), {}
    while len(ended) < len(children):
        late = time.monotonic() - start > seconds
        for rank, child in children.items():
            if rank not in ended:
                if late:
                    os.kill(child, signal.SIGKILL)
                found, status = os.waitpid(child, 0 if late else os.WNOHANG)
                if found:
                    code = None if late else os.waitstatus_to_exitcode(status)
                    ended[rank] = (code, time.monotonic() - start)
        time.sleep(0.01)
    return ended


def wait_until_begun(folder: Path, children: dict[int, int]) -> None:
    """Until all ranks are in the midst of their work, and a random moment."""
    begun = time.monotonic()
    while not all((folder / f"go{rank}").exists() for rank in children) and time.monotonic() < begun + 30:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))


def run(order: dict) -> list[dict] | None:
    """Starts ranks, and says how they ended; None in a rank."""
    folder, port, children = Path(order["folder"]), order.get("port") or free_port(), {}
    for rank in range(order["ranks"]):
        if rank in order.get("absent", []):
            continue
        child = os.fork()
        if child == 0:
            run_rank(order, rank, port)
        children[rank] = child
    if "kill" in order:
        wait_until_begun(folder, children)
        os.kill(children[order["kill"]], order.get("signal", signal.SIGKILL))
    if "cut" in order:
        wait_until_begun(folder, children)
        subprocess.run(order["cut"], check=True)
    ended = wait_for(children, order.get("seconds", 60)) if order.get("signal") != signal.SIGSTOP else None
    if ended is None:  # a stopped process never ends by itself
        others = {rank: child for rank, child in children.items() if rank != order["kill"]}
        ended = wait_for(others, order.get("seconds", 60))
        os.kill(children[order["kill"]], signal.SIGKILL)
        os.waitpid(children[order["kill"]], 0)
    results = []
    for rank, (code, seconds) in sorted(ended.items()):
        path = folder / f"rank{rank}.json"
        found = json.loads(path.read_text()) if code == 0 else None
        error = (folder / f"rank{rank}.err").read_text()
        results.append({"rank": rank, "code": code, "seconds": seconds, "result": found, "error": error})
    return results


def main() -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():  # what is imported by the way is imported once
        model_of("int8").generate(PROMPT, max_new_tokens=2, do_sample=False, pad_token_id=0)
    torch.nn.parallel.DistributedDataParallel  # noqa: B018
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
