"""Whether two ranks learn as one does with the whole batch: a student on Fashion-MNIST, distilled while it is pruned.

    python benchmarks/parallel_training.py             about two minutes of a core
    python benchmarks/parallel_training.py --quick     few images, to see it work

The student begins with what it has learned dense, and has 80 % zeros at last. What differs for no other reason than
noise is measured beside it: one rank that takes each batch in two halves, so that gradients are added up in another
order, and one that sees the images in another order. All of it twice: with batch norms, which two ranks share and two
halves do not, and with the norms folded into the convolutions. Results are printed, and kept in
benchmarks/results/parallel-training.json with --save. Seconds are those of the processor, on the first rank.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from harness.ranks import environments
from torch import Tensor

import edgekern as ek
from edgekern import parallel
from edgekern.evaluate.fashion import load_fashion_mnist
from edgekern.machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/parallel-training.json"
sys.path.append(str(ROOT / "examples"))

from fashion import BATCH, Images, accuracy, answers, by_answers, by_labels, folded, large, small, train  # noqa: E402

RANKS = 2
NORMS = ("batch norms", "norms folded")
FIRST = 10
"""Steps at the start that are compared one by one; later ones in means over an epoch."""
THINNED = 10
"""Steps of which the results keep the mean."""


@dataclass(frozen=True)
class Effort:
    """How much is done: epochs of each training, images to learn from and to test with."""

    teacher: int = 1
    dense: int = 3
    pruned: int = 8
    taught_with: int = 20_000
    images: int = 8_000
    tested: int = 10_000


@dataclass(frozen=True)
class Way:
    """How the same training is done."""

    name: str
    ranks: int = 1
    parts: int = 1
    seed: int = 0


QUICK = Effort(teacher=1, dense=1, pruned=2, taught_with=1_000, images=1_300, tested=500)
WAYS = (
    Way("one rank"),
    Way("two ranks", ranks=RANKS),
    Way("two halves", parts=2),
    Way("another order", seed=1),
    Way("a third order", seed=2),
)


def begin(effort: Effort, folder: Path) -> float:
    """Trains the teacher and the dense student, and writes what each way begins with; percent the teacher is right."""
    images, classes = (part[: effort.taught_with] for part in load_fashion_mnist(train=True))
    teacher = train(large(0), Images(images, classes, 0), effort.teacher, by_labels, folder / "teacher.pt")
    images, classes = images[: effort.images], classes[: effort.images]
    known = answers(teacher, images, folder)
    student = small(0)
    train(student, Images(images, classes, 0), effort.dense, by_answers(student, known), folder / "dense.pt")
    for norms in NORMS:
        made = student if norms == NORMS[0] else folded(student, images)
        torch.save(made.state_dict(), folder / f"{norms}.pt")
    torch.save({"images": images, "classes": classes}, folder / "images.pt")
    return accuracy(teacher, _test(effort))


def learn(way: Way, norms: str, effort: Effort, folder: Path, group: parallel.Group | None = None) -> dict[str, Any]:
    """One training: its losses, what is left of the student, and what tells masks and weights apart."""
    stored = torch.load(folder / "images.pt")
    student = small(0) if norms == NORMS[0] else folded(small(0), stored["images"])
    student.load_state_dict(torch.load(folder / f"{norms}.pt"))
    data = Images(**stored, seed=way.seed)
    steps = data.steps(effort.pruned)
    rate = {"name": "adamw", "lr": 4e-3, "weight_decay": 0.01}
    config = ek.FitConfig(
        steps=steps, optimizer=rate, scheduler={"name": "one_cycle", "pct_start": 0.2}, seed=way.seed,
        accumulate=way.parts, log_every=1,
    )  # fmt: skip
    sparsity = ek.PerLayer({"0.0": None, "_default": ek.Prune(0.8, scope="global", max_sparsity=0.9)})
    prune = ek.train.PruneGradually(sparsity, ek.AGP(begin=1, end=max(2, steps // 2), every=max(1, steps // 40)))
    loss = by_answers(student, ek.distill.CachedLogits(next(folder.glob("answers-*"))))
    log = folder / f"{norms}, {way.name}.jsonl"
    options: dict[str, Any] = {"callbacks": [prune], "log": log, "progress": False}
    start = time.process_time()
    if group is None:
        ek.fit(student, _in_parts(data, way.parts), loss, config, **options)
    else:
        parallel.fit(student, data, loss, config, group, **options)
    seconds = time.process_time() - start
    assert prune.pruner is not None
    masks = prune.pruner.lock.masks
    zeros = 1 - sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
    return {
        "seconds": round(seconds, 1),
        "losses": [json.loads(line)["loss"] for line in log.read_text().splitlines()] if log.exists() else [],
        "accuracy": accuracy(student, _test(effort)),
        "zeros": zeros,
        "masks": _digest(masks),
        "weights": _digest(student.state_dict()),
    }


def _test(effort: Effort) -> tuple[Tensor, Tensor]:
    images, classes = load_fashion_mnist(train=False)
    return images[: effort.tested], classes[: effort.tested]


def _in_parts(data: Images, parts: int) -> Callable[[int], Iterator[Any]]:
    """Each batch as so many that follow each other."""
    return lambda epoch: (
        part for batch in data(epoch) for part in zip(*(each.split(BATCH // parts) for each in batch), strict=True)
    )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def on_ranks(norms: str, effort: Effort, folder: Path) -> list[dict[str, Any]]:
    """What each of the ranks has to say, which are processes of one thread."""
    command = [sys.executable, __file__, "--rank", json.dumps([norms, asdict(effort), str(folder)])]
    processes = [subprocess.Popen(command, env=env) for env in environments(RANKS)]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit("a rank has failed; its error stands above")
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(RANKS)]


def rank_main(norms: str, effort: Effort, folder: Path) -> None:
    """One rank."""
    with parallel.join() as group:
        way = next(way for way in WAYS if way.ranks == group.size)
        found = learn(way, norms, effort, folder, group)
        (folder / f"rank{group.rank}.json").write_text(json.dumps(found))


def compared(losses: list[float], reference: list[float], epoch: int) -> dict[str, float]:
    """The largest differences from the reference, in proportion to it: of single steps, and of means over an epoch."""

    def largest(ours: list[float], theirs: list[float]) -> float:
        return max(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True))

    def smooth(curve: list[float]) -> list[float]:
        return torch.tensor(curve, dtype=torch.float64).unfold(0, epoch, 1).mean(1).tolist()

    return {"first": largest(losses[:FIRST], reference[:FIRST]), "curve": largest(smooth(losses), smooth(reference))}


def thinned(losses: list[float]) -> list[float]:
    """Means of so many steps each."""
    return [float(f"{part.mean().item():.9g}") for part in torch.tensor(losses, dtype=torch.float64).split(THINNED)]


def run(effort: Effort, folder: Path) -> dict[str, Any]:
    """All of it; the results."""
    found: dict[str, Any] = {
        "effort": asdict(effort),
        "batch": BATCH,
        "thinned": THINNED,
        "first": FIRST,
        "teacher": begin(effort, folder),
        "norms": {},
    }
    epoch = effort.images // BATCH
    for norms in NORMS:
        rows: list[dict[str, Any]] = []
        reference: list[float] = []
        for way in WAYS:
            ranks = on_ranks(norms, effort, folder) if way.ranks > 1 else [learn(way, norms, effort, folder)]
            first = ranks[0]
            losses = first["losses"]
            reference = reference or losses
            row = {**asdict(way), **{name: first[name] for name in ("seconds", "accuracy", "zeros")}}
            row |= compared(losses, reference, epoch)
            row |= {name: [rank[name] for rank in ranks] for name in ("masks", "weights")}
            rows.append({**row, "last": sum(losses[-epoch:]) / epoch, "losses": thinned(losses)})
            print(norms, json.dumps({k: v for k, v in rows[-1].items() if k not in ("losses", "weights")}), flush=True)
        found["norms"][norms] = rows
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images, to see it work")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--rank", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.rank:
        norms, effort, folder = options.rank
        rank_main(norms, Effort(**effort), Path(folder))
        return
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        found = run(QUICK if options.quick else Effort(), Path(folder))
    if options.save:
        RESULTS.write_text(json.dumps({"machine": machine, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
