"""What the two examples on Fashion-MNIST share: images, networks, a training, pruning, int8 and a clock.

The images come with Debian: apt-get install dataset-fashion-mnist
"""

import argparse
import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

Data = tuple[Tensor, Tensor]
"""Images [N, 1, 28, 28] and their classes [N]."""
BATCH, TEMPERATURE, HARD = 128, 4.0, 0.1


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


def large(seed: int) -> nn.Sequential:
    return network((32, 64, 64, 128), 1, seed)


def small(seed: int) -> nn.Sequential:
    return network((12, 24, 48, 64), 2, seed)


def clothes(learned: int, tested: int) -> tuple[Data, Data]:
    """So many images to learn from, and so many to test with."""
    train, test = (load_fashion_mnist(train=which) for which in (True, False))
    return (train[0][:learned], train[1][:learned]), (test[0][:tested], test[1][:tested])


def multiplications(model: nn.Module) -> int:
    """In convolutions and linear layers, for one image.

    It is a copy that is run: in a network that trains, norms would take the blank image into their statistics.
    """
    counted = copy.deepcopy(model).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        counted(torch.zeros(1, 1, 28, 28))
    return counter.get_total_flops() // 2


@torch.inference_mode()
def accuracy(model: nn.Module, data: Data) -> float:
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
    """What the teacher says of each image, and of each mirrored: it is asked once, and not in each epoch.

    They are kept in a folder that is called by its weights and the images: a teacher that has learned more, or is shown
    others, gives other answers.
    """
    asked = hashlib.sha256(images.numpy())
    for tensor in teacher.state_dict().values():
        asked.update(tensor.contiguous().numpy())
    folder = folder / f"answers-{asked.hexdigest()[:16]}"
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
    return model.eval()


def prune(model: nn.Module, pattern: str, data: Images, epochs: int, loss: Callable, checkpoint: Path) -> float:
    """Prunes to 80 % in small steps, while training goes on; the share of zeros. The first layer stays."""
    steps = data.steps(epochs)
    config: Config = ek.PerLayer({"0.0": None, "_default": ek.Prune(0.8, pattern, scope="global", max_sparsity=0.9)})
    schedule = ek.AGP(begin=1, end=max(2, steps // 2), every=max(1, steps // 40))
    gradually = ek.train.PruneGradually(config, schedule)
    train(model, data, epochs, loss, checkpoint, callbacks=(gradually,))
    weights = [module.weight for name, module in model.named_modules() if hasattr(module, "weight") and name != "0.0"]
    weights = [weight for weight in weights if weight.ndim > 1]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def folded(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy in eval mode with its norms and activations in its convolutions, as one would run it in float32."""
    made = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
    ek.fuse_(made, images[:1])
    return made


def to_int8(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy in int8, whose convolutions hand on uint8."""
    made = folded(model, images)
    ek.convert_(made, ek.Int8(activations="static"), data=images[:500].split(100))
    ek.link_(made)
    return made


def to_time(name: str, floats: nn.Module, native: dict[str, nn.Module], images: Tensor) -> dict[str, nn.Module]:
    """A network as it is and with its norms folded, and native ones, whose convolutions then run in one call."""
    plain = copy.deepcopy(floats).to(memory_format=torch.contiguous_format)
    frozen = {name: ek.freeze(model, images[:1]) for name, model in native.items()}
    return {name: plain, f"{name}, norms folded": folded(floats, images), **frozen}


def latencies(models: dict[str, nn.Module], images: Tensor, seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of a call of each model on one image and on 64, timed in turns."""
    found = {}
    for count in (1, 64):
        with torch.inference_mode():
            calls = {name: lambda model=model, x=images[:count]: model(x) for name, model in models.items()}
            timed = interleave(calls, max_seconds=seconds)
        found[f"{count} image{'s' * (count > 1)}"] = {name: result.p50 for name, result in timed.items()}
    return found


def run_as_script(kind: str, doc: str, run: Callable[[bool, Path], dict]) -> None:
    """Calls ``run(quick, folder)`` as the command line says; writes what it gives, with --save."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images and one seed, to see it work")
    parser.add_argument("--keep", type=Path, help="folder for checkpoints; the same command goes on from them")
    parser.add_argument("--save", type=Path, help="JSON file for the results")
    parser.add_argument("--threads", type=int, default=1, help="of the processor, to train and to time with")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = run(options.quick, folder)
    if options.save:
        from edgekern.machine import describe_machine

        about = {"kind": kind, "machine": describe_machine(), "date": date.today().isoformat()}
        result = {**about, "threads": options.threads, **result}
        options.save.write_text(json.dumps(result, indent=2) + "\n")
