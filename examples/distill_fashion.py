"""Distils a small network of clothes from a large one, prunes it, converts it to int8, and shows what each step costs.

    python examples/distill_fashion.py --save results.json      three seeds, on the CPU alone
    python examples/distill_fashion.py --quick                  few images, one seed, and no good scores

The teacher learns from all 60,000 images of Fashion-MNIST. The students get a tenth of them, as where a model is made
smaller the data of its training are seldom at hand; they are the same images, with the same labels, for the one that is
taught and the one that is not, and so are steps, augmentation, schedule and the weights that they begin with. The data
come with Debian: apt-get install dataset-fashion-mnist
"""

import argparse
import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import edgekern as ek
from edgekern.bench.interleave import interleave
from edgekern.config import Config
from edgekern.evaluate.fashion import load_fashion_mnist

BATCH, SPARSITY, TEMPERATURE, HARD = 128, 0.8, 4.0, 0.1


@dataclass(frozen=True)
class Effort:
    """How much is done: epochs of each training, images to learn from and to test with, students."""

    teacher: int = 7
    student: int = 40
    pruned: int = 40
    taught_with: int = 60_000
    images: int = 6_000
    tested: int = 10_000
    seeds: int = 3


QUICK = Effort(teacher=1, student=1, pruned=2, taught_with=2_000, images=2_000, tested=1_000, seeds=1)


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
    made = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(d, 10))
    return made.to(memory_format=torch.channels_last)  # trains in less time


def make_teacher() -> nn.Sequential:
    return network((16, 32, 48, 96), 1, seed=0)


def make_student(seed: int) -> nn.Sequential:
    return network((12, 24, 32, 48), 2, seed)


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
    """Training images in another order each epoch, half of them mirrored, as the number of the epoch and a seed say.

    A batch is images, classes, and the numbers under which ``answers`` has what the teacher says of them.
    """

    images: Tensor
    classes: Tensor
    seed: int

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        choose = torch.Generator().manual_seed(1000 * self.seed + epoch)
        for rows in torch.randperm(len(self.images), generator=choose).split(BATCH)[:-1]:
            mirrored = torch.rand(len(rows), generator=choose) < 0.5
            images = self.images[rows]
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
            yield images, self.classes[rows], rows + len(self.images) * mirrored

    def steps(self, epochs: int) -> int:
        """So many epochs are so many steps."""
        return epochs * ((len(self.images) - 1) // BATCH)


def answers(teacher: nn.Module, images: Tensor, folder: Path) -> ek.distill.CachedLogits:
    """What the teacher says of each image, and of each mirrored: it is asked once, and not in each epoch."""
    if not (folder / "logits.json").exists():
        ek.distill.cache_logits(teacher, torch.cat([images, images.flip(-1)]).split(500), folder, top_k=10)
    return ek.distill.CachedLogits(folder)


def by_labels(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def by_answers(student: nn.Module, known: ek.distill.CachedLogits) -> ek.Distiller:
    return ek.Distiller(student, known, temperature=TEMPERATURE, hard=HARD)


def train(
    model: nn.Module, data: Images, epochs: int, loss: Callable, checkpoint: Path, callbacks: tuple = ()
) -> nn.Module:
    """Trains; goes on from the checkpoint, if there is one, or takes what it ended with."""
    steps = data.steps(epochs)
    config = ek.FitConfig(
        steps=steps,
        optimizer={"name": "adamw", "lr": 4e-3, "weight_decay": 0.01},
        scheduler={"name": "one_cycle", "pct_start": 0.2},
        seed=data.seed,
        checkpoint_every=max(1, steps // 8),
    )
    ek.fit(model, data, loss, config, callbacks=callbacks, checkpoint=checkpoint)
    return model


def prune(student: nn.Module, known: ek.distill.CachedLogits, data: Images, epochs: int, checkpoint: Path) -> float:
    """Prunes gradually while the teacher goes on teaching; the share of zeros. The first convolution stays."""
    steps = data.steps(epochs)
    config: Config = ek.PerLayer({"0.0": None, "_default": ek.Prune(SPARSITY, scope="global", max_sparsity=0.9)})
    schedule = ek.AGP(begin=1, end=max(2, steps // 2), every=max(1, steps // 40))
    gradually = ek.train.PruneGradually(config, schedule)
    train(student, data, epochs, by_answers(student, known), checkpoint, callbacks=(gradually,))
    weights = [module.weight for name, module in student.named_modules() if hasattr(module, "weight") and name != "0.0"]
    weights = [weight for weight in weights if weight.ndim > 1]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def to_int8(model: nn.Module, images: Tensor) -> nn.Module:
    """Convolutions take their norms and activations in, and hand on uint8."""
    ek.fuse_(model.to(memory_format=torch.contiguous_format), images[:1])
    ek.convert_(model, ek.Int8(activations="static"), data=images[:500].split(100))
    ek.link_(model)
    return model


def one_seed(
    known: ek.distill.CachedLogits, data: Images, test: tuple[Tensor, Tensor], effort: Effort, folder: Path
) -> tuple[dict, nn.Module]:
    """Scores of a student alone, of one that is taught, of that one pruned, and in int8; and the last."""
    alone, taught = make_student(data.seed), make_student(data.seed)
    train(alone, data, effort.student, by_labels, folder / f"alone-{data.seed}.pt")
    train(taught, data, effort.student, by_answers(taught, known), folder / f"distilled-{data.seed}.pt")
    row = {"seed": data.seed, "alone": accuracy(alone, test), "distilled": accuracy(taught, test)}
    row["zeros"] = prune(taught, known, data, effort.pruned, folder / f"pruned-{data.seed}.pt")
    row["pruned"] = accuracy(taught, test)
    row["int8"] = accuracy(to_int8(taught, data.images), test)
    print(json.dumps(row), flush=True)
    return row, taught


def latencies(teacher: nn.Module, student: nn.Module, images: Tensor, seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of a call on one image and on many; the teacher as it is, and with its norms folded in."""
    teacher = copy.deepcopy(teacher).to(memory_format=torch.contiguous_format).eval()
    folded = copy.deepcopy(teacher)
    ek.fuse_(folded, images[:1])
    models = {"teacher": teacher, "teacher, norms folded": folded, "student, int8": student}
    found = {}
    for count in (1, 64):
        with torch.inference_mode():
            calls = {name: lambda model=model, x=images[:count]: model(x) for name, model in models.items()}
            timed = interleave(calls, max_seconds=seconds)
        found[f"{count} image{'s' * (count > 1)}"] = {name: result.p50 for name, result in timed.items()}
    return found


def main() -> None:
    """Prints, and with --save writes, the accuracy of each model and how fast the last one is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images and one seed, to see it work")
    parser.add_argument("--keep", type=Path, help="folder for checkpoints; the same command goes on from them")
    parser.add_argument("--save", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(QUICK if options.quick else Effort(), options.keep or Path(folder))
    if options.save:
        from edgekern.machine import describe_machine

        about = {"kind": "distill-fashion", "machine": describe_machine(), "date": date.today().isoformat()}
        options.save.write_text(json.dumps({**about, **result}, indent=2) + "\n")


def run(effort: Effort, folder: Path) -> dict:
    """All of it; the results."""
    folder.mkdir(parents=True, exist_ok=True)
    images, classes = (part[: effort.taught_with] for part in load_fashion_mnist(train=True))
    test = tuple(part[: effort.tested] for part in load_fashion_mnist(train=False))
    teacher = make_teacher()
    train(teacher, Images(images, classes, 0), effort.teacher, by_labels, folder / "teacher.pt")
    counts = {"teacher": multiplications(teacher), "student": multiplications(make_student(0))}
    found = {"effort": asdict(effort), "multiplications": counts, "teacher": accuracy(teacher, test)}
    print(json.dumps(found), flush=True)
    images, classes = images[: effort.images], classes[: effort.images]
    known = answers(teacher, images, folder / "answers")
    rows = []
    for seed in range(effort.seeds):
        row, student = one_seed(known, Images(images, classes, seed), test, effort, folder)
        rows.append(row)
    means = {name: sum(row[name] for row in rows) / len(rows) for name in ("alone", "distilled", "pruned", "int8")}
    found |= {"rows": rows, "means": means, "threads": torch.get_num_threads()}
    found["milliseconds"] = latencies(teacher, student, test[0], seconds=1 if effort == QUICK else 20)
    print(json.dumps(found | {"rows": "above"}))
    return found


if __name__ == "__main__":
    main()
