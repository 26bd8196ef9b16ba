"""Time SmolLM2-135M on one process and on two that share its layers, each process on a core of its own, in one run.

    python benchmarks/parallel.py                        prompts of 512 tokens, alone and eight at a time, and 32 tokens
                                                         written, over loopback and three networks
    python benchmarks/parallel.py --quick                shorter ones, and two rounds
    python benchmarks/parallel.py --network loopback     without root

One process reads a prompt in one call, which is its fastest way. Rounds are interleaved: while the two work, the one
waits for a message, and the other way round. Joules of a task are measured after that, where the machine has a sensor.
Tokens that are written are compared. Networks that are slow, as harness/network.py makes them, take root, and a little
of the two cores that the ranks have. Results are printed, and kept with -o.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import torch
from harness.network import Network, obstacle
from harness.ranks import environments
from harness.slow_link import enter
from torch import nn

import edgekern as ek
from edgekern import parallel
from edgekern.bench import Joules
from edgekern.machine import describe_machine

TASKS = ("", "one", "many", "write")
NETWORKS = {"1gbit": (0.2e-3, 1e9), "100mbit": (1e-3, 100e6), "40mbit": (3e-3, 40e6)}
"""Seconds each way, and bits a second, of all but loopback."""
LOOPBACK = "loopback"
SCHEMES = {"float32": None, "int8": ek.Int8(), "int4": ek.Int4(group_size=32)}


def load(scheme: str) -> nn.Module:
    """SmolLM2 in a scheme."""
    from edgekern.evaluate.language_model import load_smollm2

    model = load_smollm2().model
    if SCHEMES[scheme] is not None:
        ek.convert_(model, SCHEMES[scheme])
        ek.fuse_blocks_(model)
    return model


def timed(work) -> tuple[float, object]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


@torch.inference_mode()
def alone(options: argparse.Namespace) -> None:
    """One process on one core: does what it is told to on stdin."""
    os.sched_setaffinity(0, [options.cores[0]])
    torch.set_num_threads(1)
    model = load(options.scheme)
    prompts = make_prompts(options)
    print("ready", flush=True)
    for line in sys.stdin:
        task = line.strip()
        if task == "write":
            ids = prompts["one"][:, : options.prompt // 4]
            seconds, found = timed(partial(write_alone, model, ids, options.written))
        else:
            seconds, found = timed(partial(read_alone, model, prompts[task]))
        print(json.dumps([seconds, found]), flush=True)


def stage(options: argparse.Namespace) -> None:
    """One of two ranks, each on a core."""
    rank = int(os.environ["RANK"])
    if options.namespaces:
        enter(options.namespaces[rank])
    os.sched_setaffinity(0, [options.cores[rank]])
    torch.set_num_threads(1)
    model = load(options.scheme)
    prompts = make_prompts(options)
    order = torch.zeros(1, dtype=torch.int64)
    with parallel.join(silence_seconds=30) as group:
        plan = parallel.plan(model, group, prompts["one"])
        pipe = parallel.CausalPipeline(model, plan, group)
        if rank == 0:
            print(f"ready {json.dumps(plan.to_dict())}", flush=True)
        while True:
            line = sys.stdin.readline().strip() if rank == 0 else ""
            order[0] = TASKS.index(line)
            group.broadcast(order)
            if not int(order):
                return
            seconds, found = timed(partial(work, pipe, prompts, TASKS[int(order)], options))
            if rank == 0:
                print(json.dumps([seconds, found]), flush=True)


def work(
    pipe: parallel.CausalPipeline, prompts: dict[str, torch.Tensor], task: str, options: argparse.Namespace
) -> list:
    """A task of two ranks, to its end on both."""
    if task == "write":
        return pipe.generate(prompts["one"][:, : options.prompt // 4], options.written).tolist()
    ids = prompts[task]
    logits = pipe.logits(ids, last_only=True, micro_batches=options.pieces)
    likeliest = torch.zeros(len(ids), 1, dtype=torch.int64) if logits is None else logits.argmax(-1)
    pipe.group.broadcast(likeliest, pipe.group.size - 1)  # the first rank is done before the last one is
    return [[row] for row in likeliest.tolist()]


def read_alone(model: nn.Module, prompts: torch.Tensor) -> list:
    """Prompts one by one, which is faster than all at once."""
    rows = (model(prompts[i : i + 1], use_cache=True, logits_to_keep=1).logits for i in range(len(prompts)))
    return [row.argmax(-1).tolist() for row in rows]


def write_alone(model: nn.Module, ids: torch.Tensor, tokens: int) -> list:
    given = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **given).tolist()


def make_prompts(options: argparse.Namespace) -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 49000, (options.batch, options.prompt), generator=torch.Generator().manual_seed(0))
    return {"one": ids[:1], "many": ids}


class Subject:
    """Processes that do tasks when told to; with ``network``, each in a namespace of its own.

    Attributes:
        ready: what the first of them said when it was.
        busy: seconds that all tasks have taken.
    """

    def __init__(self, role: str, arguments: list[str], world: int, network: Network | None = None) -> None:
        where = {} if network is None else network.environment
        namespaces = [] if network is None else ["--namespaces", *network.namespaces]
        self.processes = []
        for env in environments(world):
            command = [sys.executable, __file__, "--role", role, *arguments, *namespaces]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self.processes.append(subprocess.Popen(command, env={**env, **where}, text=True, **pipes))
        self.busy = 0.0
        self.ready = self._line().removeprefix("ready").strip()

    def _line(self) -> str:
        line = self.processes[0].stdout.readline()
        if not line:
            raise SystemExit("a process has ended; its error stands above")
        return line

    def do(self, task: str) -> tuple[float, list]:
        print(task, file=self.processes[0].stdin, flush=True)
        seconds, found = json.loads(self._line())
        self.busy += seconds
        return seconds, found

    def end(self) -> None:
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait(timeout=60)


def over(name: str, one: Subject, arguments: list[str], rounds: int, joules: Joules) -> dict:
    """What two ranks do over a network, in turns with one process."""
    with ExitStack() as stack:
        network = None if name == LOOPBACK else stack.enter_context(Network(*NETWORKS[name]))
        found: dict = {"network": name}
        if network is not None:
            delay, rate = NETWORKS[name]
            trip, measured = network.measure()
            found |= {"delay": delay, "rate": rate, "round_trip": trip, "measured_rate": measured}
            print(f"{name}: {1e3 * trip:.2f} ms there and back, {measured / 1e6:.0f} Mbit/s")
        two = Subject("stage", arguments, 2, network)
        before = 0.0 if network is None else network.cpu_seconds
        rows = [compare(task, one, two, rounds, joules) for task in TASKS[1:]]
        found |= {"plan": json.loads(two.ready), "rows": rows}
        if network is not None:
            found["link_share"] = (network.cpu_seconds - before) / two.busy
        two.end()
    return found


def compare(task: str, one: Subject, two: Subject, rounds: int, joules: Joules) -> dict:
    """A task, in turns."""
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    found = {}
    for turn in range(rounds + 1):
        for name, subject in (("one", one), ("two", two)):
            took, found[name] = subject.do(task)
            if turn:  # the first warms up
                seconds[name].append(took)
    ratio = median(seconds["one"]) / median(seconds["two"])
    same = found["one"] == found["two"]
    print(f"{task}: one process {median(seconds['one']):.3f} s, two {median(seconds['two']):.3f} s, "
          f"{ratio:.2f} times; {'the same tokens' if same else 'OTHER TOKENS'}", flush=True)  # fmt: skip
    spent = {name: joules.of_call(partial(subject.do, task)) for name, subject in (("one", one), ("two", two))}
    return {"task": task, "seconds": seconds, "joules": spent, "ahead": ratio, "same_tokens": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=["alone", "stage"], help=argparse.SUPPRESS)
    parser.add_argument("--namespaces", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="shorter prompts, two rounds")
    parser.add_argument("--network", nargs="+", choices=[LOOPBACK, *NETWORKS], default=[LOOPBACK, *NETWORKS])
    parser.add_argument("--scheme", choices=list(SCHEMES), default="int8")
    parser.add_argument("--prompt", type=int, help="tokens; 512")
    parser.add_argument("--batch", type=int, default=8, help="prompts at a time")
    parser.add_argument("--written", type=int, default=32, help="tokens to write")
    parser.add_argument("--pieces", type=int, default=8, help="micro-batches to read prompts in")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--cores", type=int, nargs=2, default=sorted(os.sched_getaffinity(0))[:2])
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    options.prompt = options.prompt or (64 if options.quick else 512)
    rounds = options.rounds or (2 if options.quick else 7)
    if options.role:
        (alone if options.role == "alone" else stage)(options)
        return
    if len(options.cores) < 2:
        raise SystemExit("two cores are needed, one for each process")
    if options.network != [LOOPBACK] and (reason := obstacle()):
        raise SystemExit(f"--network: {reason}; --network {LOOPBACK} works without")
    names = ("scheme", "prompt", "batch", "written", "pieces")
    arguments = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
    arguments += ["--cores", *map(str, options.cores)]
    head = {"machine": describe_machine(), **{name: getattr(options, name) for name in names}, "rounds": rounds}
    joules, one = Joules(), Subject("alone", arguments, 1)
    networks = [over(name, one, arguments, rounds, joules) for name in options.network]
    one.end()
    if options.output:
        found = {**head, "energy": joules.to_dict(), "networks": networks}
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
