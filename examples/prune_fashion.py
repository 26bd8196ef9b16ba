"""Prunes a convolutional network to 80 % zeros, converts it to int8, and shows what that costs and what it brings.

    python examples/prune_fashion.py --save results.json      three seeds, on one thread of a CPU
    python examples/prune_fashion.py --quick                  few images, one seed, and no good scores

Weights go in blocks of 4x4, which the int8 kernels can leave out, a few at a time. Meanwhile the network learns from
the images that it was trained with and from what it said of them when it was dense.
"""

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from fashion import (
    Images,
    accuracy,
    answers,
    by_labels,
    folded,
    large,
    latencies,
    multiplications,
    prune,
    run_as_script,
    to_int8,
    train,
)
from torch import Tensor, nn

import edgekern as ek
from edgekern.evaluate.fashion import load_fashion_mnist

PATTERN = "4x4"


@dataclass(frozen=True)
class Effort:
    """How much is done: epochs of each training, images to learn from and to test with, networks."""

    dense: int = 8
    pruned: int = 8
    images: int = 60_000
    tested: int = 10_000
    seeds: int = 3


QUICK = Effort(dense=1, pruned=2, images=2_000, tested=1_000, seeds=1)


def one_seed(
    data: Images, test: tuple[Tensor, Tensor], effort: Effort, folder: Path
) -> tuple[dict, dict[str, nn.Module]]:
    """Scores of a network, dense and pruned, in float32 and in int8; and the networks."""
    dense = train(large(data.seed), data, effort.dense, by_labels, folder / f"large-{data.seed}.pt")
    pruned = copy.deepcopy(dense)
    known = answers(dense, data.images, folder)
    zeros = prune(pruned, PATTERN, known, data, effort.pruned, folder / f"large-pruned-{data.seed}.pt")
    models = {
        "dense": dense,
        "pruned": pruned,
        "dense, int8": to_int8(dense, data.images),
        "pruned, int8": to_int8(pruned, data.images),
    }
    row = {"seed": data.seed, "zeros": zeros, **{name: accuracy(model, test) for name, model in models.items()}}
    print(json.dumps(row), flush=True)
    return row, models


def run(quick: bool, folder: Path) -> dict:
    """All of it; the results. Latencies are those of the last network."""
    effort = QUICK if quick else Effort()
    images, classes = (part[: effort.images] for part in load_fashion_mnist(train=True))
    test = tuple(part[: effort.tested] for part in load_fashion_mnist(train=False))
    rows = []
    for seed in range(effort.seeds):
        row, models = one_seed(Images(images, classes, seed), test, effort, folder)
        rows.append(row)
    dense = copy.deepcopy(models["dense"]).to(memory_format=torch.contiguous_format)
    timed = {"float32": dense, "float32, norms folded": folded(dense, images)}
    # Their convolutions run in one call.
    timed |= {name: ek.freeze(models[name], images[:1]) for name in ("dense, int8", "pruned, int8")}
    found = {"effort": asdict(effort), "pattern": PATTERN, "multiplications": multiplications(dense), "rows": rows}
    found["forms"] = [module.choice.form for module in models["pruned, int8"].modules() if hasattr(module, "choice")]
    found["milliseconds"] = latencies(timed, test[0], seconds=1 if quick else 20)
    print(json.dumps({"forms": found["forms"], "milliseconds": found["milliseconds"]}))
    return found


if __name__ == "__main__":
    run_as_script("prune-fashion", __doc__, run)
