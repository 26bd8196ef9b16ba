"""Prunes a convolutional network to 80 % zeros, converts it to int8, and shows what that costs and what it brings.

    python examples/prune_fashion.py --save results.json      three seeds, on one thread of a CPU
    python examples/prune_fashion.py --quick                  few images, one seed, and no good scores

Weights go in blocks of 2 output channels and 4 input channels, which the int8 kernels can leave out, and what is left
goes on learning meanwhile.
"""

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fashion import (
    Data,
    Images,
    accuracy,
    by_labels,
    clothes,
    large,
    latencies,
    multiplications,
    prune,
    run_as_script,
    to_int8,
    to_time,
    train,
)
from torch import nn

PATTERN = "2x4"


@dataclass(frozen=True)
class Effort:
    """How much is done: epochs of each training, images to learn from and to test with, prunings of the network."""

    dense: int = 8
    pruned: int = 8
    images: int = 60_000
    tested: int = 10_000
    seeds: int = 3


QUICK = Effort(dense=1, pruned=2, images=2_000, tested=1_000, seeds=1)


def one_seed(dense: nn.Module, data: Images, test: Data, effort: Effort, folder: Path) -> tuple[dict, nn.Module]:
    """Scores of a copy of the network that is pruned, and of that in int8; and the last."""
    pruned = copy.deepcopy(dense)
    zeros = prune(pruned, PATTERN, data, effort.pruned, by_labels, folder / f"large-pruned-{data.seed}.pt")
    converted = to_int8(pruned, data.images)
    row = {"seed": data.seed, "zeros": zeros, "pruned": accuracy(pruned, test), "int8": accuracy(converted, test)}
    print(json.dumps(row), flush=True)
    return row, converted


def run(quick: bool, folder: Path) -> dict:
    """All of it; the results. Latencies are those of the last pruned network."""
    effort = QUICK if quick else Effort()
    (images, classes), test = clothes(effort.images, effort.tested)
    dense = train(large(0), Images(images, classes, 0), effort.dense, by_labels, folder / "large-0.pt")
    converted = to_int8(dense, images)
    found = {"effort": asdict(effort), "pattern": PATTERN, "multiplications": multiplications(dense)}
    found |= {"dense": {"float32": accuracy(dense, test), "int8": accuracy(converted, test)}}
    print(json.dumps(found), flush=True)
    rows = []
    for seed in range(effort.seeds):
        row, pruned = one_seed(dense, Images(images, classes, seed), test, effort, folder)
        rows.append(row)
    forms = [module.choice.form for module in pruned.modules() if hasattr(module, "choice")]
    found |= {"rows": rows, "forms": forms}
    models = to_time("float32", dense, {"int8": converted, "pruned, int8": pruned}, images)
    found["milliseconds"] = latencies(models, test[0], seconds=1 if quick else 20)
    print(json.dumps({"forms": forms, "milliseconds": found["milliseconds"]}))
    return found


if __name__ == "__main__":
    run_as_script("prune-fashion", __doc__, run)
