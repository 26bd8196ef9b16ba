"""What the ranks of test_parallel*.py do, by name. Each gives JSON-ready data."""

from __future__ import annotations

import ctypes
import os
import resource
import time
from itertools import pairwise
from pathlib import Path

import torch
from tiny_llama import tiny
from torch import nn

import edgekern as ek
from edgekern import parallel
from edgekern.parallel.chain import cut
from edgekern.train import KeepZeros, PruneGradually

PROMPT = torch.arange(1, 41)[None] * 7 % 96
BATCH = torch.arange(5 * 12).reshape(5, 12) * 5 % 96


_BOTH = {"lm_head": ek.Int8(), "model.embed_tokens": ek.Int8(), "_default": ek.Int8()}
CONFIGS = {None: None, "int8": ek.Int8(), "int4": ek.Int4(group_size=32), "head": ek.PerLayer(_BOTH)}


def model_of(scheme: str | None = None, **options) -> nn.Module:
    """The same on every rank."""
    model = tiny(**options)
    if scheme:
        ek.convert_(model, CONFIGS[scheme])
    return model


def empty(**options) -> nn.Module:
    """Without values."""
    with torch.device("meta"):
        return tiny(**options)


def join(**options) -> parallel.Group:
    return parallel.join(**{"start_seconds": 20, "silence_seconds": 5, **options})


def sequential() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(12, 40), nn.GELU(), nn.Unflatten(1, (4, 10)), nn.Linear(10, 16), nn.Flatten(), nn.Linear(64, 5)
    ).eval()


def pipeline(rank: int, folder: Path, scheme: str | None = None, checkpoint: str | None = None) -> dict:
    """Generation of one prompt, of a batch, of padded prompts, with an end; and logits."""
    with join() as group:
        model = model_of(scheme) if checkpoint is None else empty()
        given = {"checkpoint": checkpoint, "scheme": None if checkpoint is None else CONFIGS[scheme]}
        plan = parallel.plan(model, group, PROMPT, cache_tokens=100, **given)
        pipe = parallel.CausalPipeline(model, plan, group, **given)
        mine = rank == 0
        mask = torch.ones_like(BATCH)
        mask[1, :5] = mask[3, :9] = 0
        found = {
            "one": pipe.generate(PROMPT if mine else None, 12).tolist(),
            "batch": pipe.generate(BATCH if mine else None, 6, micro_batches=3).tolist(),
            "padded": pipe.generate(BATCH if mine else None, 6, attention_mask=mask if mine else None).tolist(),
        }
        end = found["batch"][2][14]
        found["ended"] = pipe.generate(BATCH if mine else None, 6, eos=end, pad=1).tolist()
        logits = pipe.logits(PROMPT if mine else None)
        found["logits"] = None if logits is None else logits[0].tolist()
        found["stages"] = [[stage.first, stage.last] for stage in plan.stages]
        found["held"] = sum(t.nbytes for t in pipe.stage.parameters())
        return found


def chain(rank: int, folder: Path) -> dict:
    """A Sequential, twice, of other sizes."""
    with join() as group:
        plan = parallel.plan(sequential(), group, torch.randn(8, 12))
        pipe = parallel.Pipeline(sequential(), plan, group)
        torch.manual_seed(1)
        first, second = torch.randn(9, 12), torch.randn(2, 12)
        results = [pipe(first if rank == 0 else None), pipe(second if rank == 0 else None, micro_batches=2)]
        return {"results": [None if each is None else each.tolist() for each in results]}


def write_for_long(rank: int, folder: Path, silence: float = 5) -> dict:
    """Writes until somebody ends it."""
    with join(silence_seconds=silence) as group:
        model = model_of("int8")
        pipe = parallel.CausalPipeline(model, parallel.plan(model, group, PROMPT), group)
        pipe.generate(PROMPT, 3)
        (folder / f"go{rank}").touch()
        start = time.monotonic()
        while time.monotonic() - start < 60:
            pipe.generate(BATCH, 40)
    return {}


def adds_for_long(rank: int, folder: Path) -> dict:
    """A model divided within layers, until somebody ends it."""
    with join() as group:
        model = model_of("int8")
        parallel.tensor_parallel_(model, group)
        parallel.generate(model, PROMPT, 3, group)
        (folder / f"go{rank}").touch()
        start = time.monotonic()
        while time.monotonic() - start < 60:
            parallel.generate(model, BATCH, 20, group)
    return {}


def wrong_plan(rank: int, folder: Path) -> dict:
    with join() as group:
        model = model_of()
        parallel.CausalPipeline(model, parallel.plan(model, group.size + 1, PROMPT), group)
    return {}


def other_checkpoint(rank: int, folder: Path, checkpoints: list[str], schemes: tuple = (None, None)) -> dict:
    """Each rank reads a folder of its own, by a scheme of its own."""
    with join() as group:
        plan = parallel.plan(model_of(), group, PROMPT)
        parallel.CausalPipeline(empty(), plan, group, checkpoints[rank], scheme=CONFIGS[schemes[rank]])
    return {}


def joins(rank: int, folder: Path, seconds: float = 2.0) -> dict:
    with join(start_seconds=seconds) as group:
        return {"rank": group.rank, "size": group.size}


def fails(rank: int, folder: Path) -> dict:
    """One rank raises, while the other waits for it."""
    with join() as group:
        if rank == 1:
            raise KeyError("the tokenizer has no such word")
        group.gather("waiting")
    return {}


def tensor(
    rank: int, folder: Path, scheme: str | None = None, checkpoint: str | None = None, sizes: dict | None = None
) -> dict:
    """Logits of a model divided within layers."""
    with join() as group:
        found = {}
        for compress in (False, True):
            model = model_of(scheme, **(sizes or {})) if checkpoint is None else empty()
            given = {"checkpoint": checkpoint, "scheme": None if checkpoint is None else CONFIGS[scheme]}
            named = parallel.tensor_parallel_(model, group, compress=compress, **given)
            with torch.inference_mode():
                found[str(compress)] = model(BATCH).logits.tolist()
            found["names"] = named
            found["tokens"] = parallel.generate(model, PROMPT, 8, group).tolist()
            found["q"] = model.model.layers[0].self_attn.q_proj.out_features
        return found


def tensor_rules(rank: int, folder: Path) -> dict:
    with join() as group:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
        x = torch.randn(5, 24)
        with torch.inference_mode():
            expected = model(x)
            parallel.tensor_parallel_(model, group, rules={"0": "column", "2": "row"})
            difference = (model(x) - expected).abs().max().item()
        return {"difference": difference, "features": model[0].out_features}


def distill(rank: int, folder: Path, ranks: int, steps: int = 30) -> dict:
    """Distillation into a pruned student, of batches of 16, on all ranks or on one."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 6)).eval()
    torch.manual_seed(1)
    student = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 6))
    ek.prune_(student, ek.Prune(0.5))
    data = [(torch.randn(16, 10),) for _ in range(10)]
    hidden = ek.distill.Hidden({"0": "0"}, weight=0.1)
    loss = ek.Distiller(student, teacher, hidden=hidden, example_inputs=data[0])
    config = ek.FitConfig(steps=steps, optimizer={"name": "adamw", "lr": 0.01}, log_every=1)
    keep = KeepZeros()
    log = folder / f"log{rank}.jsonl"
    options = {"callbacks": [keep], "log": log, "progress": False}
    if ranks == 1:
        result = ek.fit(student, data, loss, config, **options)
    else:
        with join() as group:
            result = parallel.fit(student, data, loss, config, group, checkpoint=folder / "fit.pt", **options)
    zeros = {name: mask.tolist() for name, mask in keep.lock.masks.items()}
    return {
        "loss": result.loss,
        "log": log.read_text() if log.exists() else "",
        "masks": zeros,
        "zeros": sum(int((p == 0).sum()) for p in student.parameters()),
        "weights": [p.tolist() for p in student.parameters()],
        "files": sorted(path.name for path in folder.iterdir() if path.name.startswith("fit")),
    }


def prunes(rank: int, folder: Path, stop: int = 40, resume: bool = False) -> dict:
    """Pruned gradually by what each rank sees, which differs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
    data = [(torch.randn(8, 10), torch.randint(4, (8,))) for _ in range(6)]
    own = [torch.randn(64, 10) * torch.rand(10).mul(rank + 1) for _ in range(2)]
    prune = PruneGradually(ek.Prune(0.6, method="wanda"), ek.AGP(5, 30, every=5), data=own)
    config = ek.FitConfig(steps=40, optimizer={"name": "sgd", "lr": 0.05}, checkpoint_every=10)
    with join() as group:

        def loss(model, batch):
            return nn.functional.cross_entropy(model(batch[0]), batch[1])

        def evaluate(model):
            return float(rank)

        result = parallel.fit(
            model, data, loss, config, group, callbacks=[prune], evaluate=evaluate, checkpoint=folder / "fit.pt",
            progress=False,
        )  # fmt: skip
    sparsity = [float((p == 0).float().mean()) for p in model.parameters()]
    return {"weights": [p.tolist() for p in model.parameters()], "metric": result.metrics["value"], "zeros": sparsity}


def norms(rank: int, folder: Path, ranks: int) -> dict:
    """What a batch norm has seen of its input, and buffers of other kinds, after some steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    model.register_buffer("flag", torch.tensor(True))
    model.register_buffer("own", torch.zeros(2, dtype=torch.float64))

    def remember(module, args, y):
        model.own.add_(args[0].sum())

    model[0].register_forward_hook(remember)
    data = [(torch.randn(16, 6) + i, torch.randint(3, (16,))) for i in range(4)]
    config = ek.FitConfig(steps=7, optimizer={"name": "sgd", "lr": 0.1}, accumulate=2)

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    if ranks == 1:
        ek.fit(model, data, loss, config, progress=False)
    else:
        with join() as group:
            parallel.fit(model, data, loss, config, group, progress=False)
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


def not_finite(rank: int, folder: Path) -> dict:
    """A loss that is NaN on one rank alone."""
    with join() as group:
        model = nn.Linear(4, 1)
        data = [torch.randn(4, 4)]
        config = ek.FitConfig(steps=3, optimizer={"name": "sgd", "lr": 0.1})
        nn.init.ones_(model.weight), nn.init.zeros_(model.bias)

        def loss(model, batch):
            return model(batch).mean() * (float("nan") if rank == 1 else 1.0)

        parallel.fit(model, data, loss, config, group, progress=False)
    return {}


def limited(
    rank: int, folder: Path, checkpoint: str, sizes: dict, room: int, ranks: int, scheme: str | None = None
) -> dict:
    """Loads under a limit of memory, and writes."""
    with join() as group:
        model = empty(**sizes)
        ctypes.CDLL(None).mallopt(-3, 1 << 17)  # M_MMAP_THRESHOLD: what is let go counts no longer
        before = peak("VmData")
        resource.setrlimit(resource.RLIMIT_DATA, (before + room, before + room))
        units = sizes["num_hidden_layers"] + 2
        ends = [units * i // ranks for i in range(ranks + 1)]
        stages = [parallel.StagePlan(a, b, 0.0, 0) for a, b in pairwise(ends)]
        names = tuple(unit.name for unit in cut(model).units)
        plan = parallel.Plan(tuple(stages), names)
        pipe = parallel.CausalPipeline(model, plan, group, checkpoint, scheme=CONFIGS[scheme])
        return {"tokens": pipe.generate(PROMPT, 4).tolist(), "rose": peak("VmData") - before}


def peak(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def pins(rank: int, folder: Path) -> dict:
    chosen = parallel.pin("all", siblings=True)
    return {"chosen": chosen, "allowed": sorted(os.sched_getaffinity(0)), "threads": torch.get_num_threads()}


SCENARIOS = {
    function.__name__: function
    for function in (
        *(pipeline, chain, write_for_long, adds_for_long, wrong_plan, other_checkpoint, joins, fails),
        *(tensor, tensor_rules, distill, prunes, norms, not_finite, limited, pins),
    )
}
