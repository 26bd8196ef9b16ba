"""Distils a small network of clothes from a large one, prunes it, converts it to int8, and shows what each step costs.

    python examples/distill_fashion.py --save results.json      three seeds, on the CPU alone
    python examples/distill_fashion.py --quick                  few images, one seed, and no good scores

The data, Fashion-MNIST, come with Debian: apt-get install dataset-fashion-mnist
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import edgekern as ek
from edgekern.config import Config
from edgekern.evaluate.fashion import load_fashion_mnist

BATCH, SPARSITY, TEMPERATURE, HARD = 128, 0.8, 4.0, 0.1


@dataclass(frozen=True)
class Effort:
    """How much is done: epochs of each training, images to learn from and to test with, students."""

    teacher: int = 8
    student: int = 8
    pruned: int = 6
    images: int = 60_000
    tested: int = 10_000
    seeds: int = 3


QUICK = Effort(teacher=1, student=1, pruned=2, images=2_000, tested=1_000, seeds=1)


def block(channels: int, filters: int, stride: int) -> nn.Sequential:
    """A convolution with what follows it."""
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters), nn.ReLU(inplace=True)
    )


def network(widths: tuple[int, int, int, int], first_stride: int, seed: int) -> nn.Sequential:
    """Four convolutions, and a linear layer behind the mean over the image; [B, 1, 28, 28] to scores [B, 10]."""
    torch.manual_seed(seed)
    a, b, c, d = widths
    blocks = [block(1, a, first_stride), block(a, b, 2), block(b, c, 1), block(c, d, 2)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(d, 10))


def make_teacher() -> nn.Sequential:
    return network((32, 64, 64, 128), 1, seed=0)


def make_student(seed: int) -> nn.Sequential:
    return network((8, 16, 16, 32), 2, seed)


def multiplications(model: nn.Module) -> int:
    """In convolutions and linear layers, for one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 28, 28))
    return counter.get_total_flops() // 2


@torch.inference_mode()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Percent of the images whose class the model finds."""
    model.eval()
    found = torch.cat([model(images).argmax(1) for images in data[0].split(500)])
    return 100 * (found == data[1]).float().mean().item()


@dataclass(frozen=True)
class Images:
    """Training images in another order each epoch, half of them mirrored, as the number of the epoch and a seed say."""

    images: Tensor
    classes: Tensor
    seed: int

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        choose = torch.Generator().manual_seed(1000 * self.seed + epoch)
        for rows in torch.randperm(len(self.images), generator=choose).split(BATCH)[:-1]:
            mirrored = torch.rand(len(rows), 1, 1, 1, generator=choose) < 0.5
            images = self.images[rows]
            yield torch.where(mirrored, images.flip(-1), images), self.classes[rows]

    def steps(self, epochs: int) -> int:
        """So many epochs are so many steps."""
        return epochs * ((len(self.images) - 1) // BATCH)


def by_labels(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def train(
    model: nn.Module, data: Images, epochs: int, loss: Callable, folder: Path, rate: float = 3e-3, callbacks: tuple = ()
) -> nn.Module:
    """Trains, with a checkpoint to go on from."""
    steps = data.steps(epochs)
    config = ek.FitConfig(
        steps=steps,
        optimizer={"name": "adamw", "lr": rate, "weight_decay": 0.01},
        scheduler={"name": "one_cycle", "pct_start": 0.2},
        seed=data.seed,
        checkpoint_every=max(1, steps // 4),
    )
    ek.fit(model, data, loss, config, callbacks=callbacks, checkpoint=folder / "fit.pt")
    (folder / "fit.pt").unlink()
    return model


def prune(student: nn.Module, teacher: nn.Module, data: Images, epochs: int, folder: Path) -> ek.PruneReport:
    """Prunes gradually while the teacher goes on teaching. The first convolution has 72 weights and stays."""
    steps = data.steps(epochs)
    config: Config = ek.PerLayer({"0.0": None, "_default": ek.Prune(SPARSITY, scope="global", max_sparsity=0.9)})
    schedule = ek.AGP(begin=1, end=max(2, steps // 2), every=max(1, steps // 40))
    gradually = ek.train.PruneGradually(config, schedule)
    loss = ek.Distiller(student, teacher, temperature=TEMPERATURE, hard=HARD)
    train(student, data, epochs, loss, folder, callbacks=(gradually,))
    assert gradually.report is not None
    return gradually.report


def to_int8(model: nn.Module, images: Tensor) -> nn.Module:
    """Convolutions take their norms and activations in, and hand on uint8."""
    ek.fuse_(model, images[:1])
    ek.convert_(model, ek.Int8(activations="static"), data=images[:500].split(100))
    ek.link_(model)
    return model


def one_seed(teacher: nn.Module, data: Images, test: tuple[Tensor, Tensor], effort: Effort, folder: Path) -> dict:
    """A student alone, one that is taught, and that one pruned and in int8."""
    alone = train(make_student(data.seed), data, effort.student, by_labels, folder)
    taught = make_student(data.seed)
    train(taught, data, effort.student, ek.Distiller(taught, teacher, temperature=TEMPERATURE, hard=HARD), folder)
    row = {"seed": data.seed, "alone": accuracy(alone, test), "distilled": accuracy(taught, test)}
    row["zeros"] = prune(taught, teacher, data, effort.pruned, folder).sparsity
    row["pruned"] = accuracy(taught, test)
    row["int8"] = accuracy(to_int8(taught, data.images), test)
    print(json.dumps(row), flush=True)
    return {**row, "model": taught}


def main() -> None:
    """Prints, and with --save writes, the accuracy of each model and how fast the last one is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images and one seed, to see it work")
    parser.add_argument("--save", type=Path, help="JSON file for the results")
    options = parser.parse_args()

    effort = QUICK if options.quick else Effort()
    images, classes = (part[: effort.images] for part in load_fashion_mnist(train=True))
    test = tuple(part[: effort.tested] for part in load_fashion_mnist(train=False))
    teacher = make_teacher()
    counts = {"teacher": multiplications(teacher), "student": multiplications(make_student(0))}
    with tempfile.TemporaryDirectory() as folder:
        train(teacher, Images(images, classes, 0), effort.teacher, by_labels, Path(folder))
        teacher.eval()
        scores = {"teacher": accuracy(teacher, test), "multiplications": counts}
        print(json.dumps(scores), flush=True)
        rows = [
            one_seed(teacher, Images(images, classes, seed), test, effort, Path(folder)) for seed in range(effort.seeds)
        ]
    last = rows[-1]["model"]
    seconds = 0.2 if options.quick else 3
    times = {
        name: ek.bench(model, test[0][:1], max_seconds=seconds).p50
        for name, model in (("teacher", teacher), ("int8", last))
    }
    found = [{name: value for name, value in row.items() if name != "model"} for row in rows]
    result = {**scores, "rows": found, "milliseconds an image": times, "ahead": times["teacher"] / times["int8"]}
    means = {name: sum(row[name] for row in found) / len(found) for name in ("alone", "distilled", "pruned", "int8")}
    print(json.dumps({**means, "ahead": result["ahead"]}))
    if options.save:
        from edgekern.machine import describe_machine

        record = {"kind": "distill-fashion", "machine": describe_machine(), **result, "means": means}
        options.save.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
