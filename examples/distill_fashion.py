"""Distils a small network of clothes from a large one, prunes it, converts it to int8, and shows what each step costs.

    python examples/distill_fashion.py --save results.json      three seeds, on one thread of a CPU
    python examples/distill_fashion.py --quick                  few images, one seed, and no good scores

The teacher learns from all 60,000 images of Fashion-MNIST. The students get a tenth of them, as where a model is made
smaller the data of its training are seldom at hand; they are the same images, with the same labels, for the one that is
taught and the one that is not, and so are steps, augmentation, schedule and the weights that they begin with.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fashion import (
    Data,
    Images,
    accuracy,
    answers,
    by_answers,
    by_labels,
    clothes,
    large,
    latencies,
    multiplications,
    prune,
    run_as_script,
    small,
    to_int8,
    to_time,
    train,
)
from torch import nn

import edgekern as ek


@dataclass(frozen=True)
class Effort:
    """How much is done: epochs of each training, images to learn from and to test with, students."""

    teacher: int = 8
    student: int = 40
    pruned: int = 40
    taught_with: int = 60_000
    images: int = 6_000
    tested: int = 10_000
    seeds: int = 3


QUICK = Effort(teacher=1, student=1, pruned=2, taught_with=2_000, images=2_000, tested=1_000, seeds=1)


def one_seed(
    known: ek.distill.CachedLogits, data: Images, test: Data, effort: Effort, folder: Path
) -> tuple[dict, nn.Module]:
    """Scores of a student alone, of one that is taught, of that one pruned, and in int8; and the last."""
    alone, taught = small(data.seed), small(data.seed)
    train(alone, data, effort.student, by_labels, folder / f"alone-{data.seed}.pt")
    loss = by_answers(taught, known)
    train(taught, data, effort.student, loss, folder / f"distilled-{data.seed}.pt")
    row = {"seed": data.seed, "alone": accuracy(alone, test), "distilled": accuracy(taught, test)}
    row["zeros"] = prune(taught, "unstructured", data, effort.pruned, loss, folder / f"pruned-{data.seed}.pt")
    converted = to_int8(taught, data.images)
    row |= {"pruned": accuracy(taught, test), "int8": accuracy(converted, test)}
    print(json.dumps(row), flush=True)
    return row, converted


def run(quick: bool, folder: Path) -> dict:
    """All of it; the results. Latencies are those of the last student."""
    effort = QUICK if quick else Effort()
    (images, classes), test = clothes(effort.taught_with, effort.tested)
    teacher = train(large(0), Images(images, classes, 0), effort.teacher, by_labels, folder / "large-0.pt")
    counts = {"teacher": multiplications(teacher), "student": multiplications(small(0))}
    found = {"effort": asdict(effort), "multiplications": counts, "teacher": accuracy(teacher, test)}
    print(json.dumps(found), flush=True)
    images, classes = images[: effort.images], classes[: effort.images]
    known = answers(teacher, images, folder)
    rows = []
    for seed in range(effort.seeds):
        row, student = one_seed(known, Images(images, classes, seed), test, effort, folder)
        rows.append(row)
    means = {name: sum(row[name] for row in rows) / len(rows) for name in ("alone", "distilled", "pruned", "int8")}
    found |= {"rows": rows, "means": means}
    models = to_time("teacher", teacher, {"student, int8": student}, images)
    found["milliseconds"] = latencies(models, test[0], seconds=1 if quick else 20)
    print(json.dumps({"means": means, "milliseconds": found["milliseconds"]}))
    return found


if __name__ == "__main__":
    run_as_script("distill-fashion", __doc__, run)
