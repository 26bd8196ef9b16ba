"""A small model with blocks, its data, and a recipe with a stage of every kind."""

import dataclasses

import torch
from small_models import LanguageModel
from torch import nn

from edgekern import AGP, GPTQ, CompressData, FitConfig, Int4, Int8, PerLayer, Prune, Recipe, compress
from edgekern.config import (
    ConvertStage,
    DistilStage,
    EvaluateStage,
    FineTuneStage,
    PruneStage,
    QuantizeStage,
)

QUICK = EvaluateStage(seconds=0.01, layers=False)
BLOCKS = "re:blocks.*"
PRUNE = PruneStage(scheme=PerLayer({BLOCKS: Prune(0.5)}))


def build(size=16):
    torch.manual_seed(0)
    return LanguageModel(tied=True, size=size).eval()


def next_token_loss(model, batch):
    return nn.functional.cross_entropy(model(batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())


def data(**others):
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randint(0, 40, (4, 12), generator=generator) for _ in range(6)]
    given = {"calibration": batches[:3], "training": batches, "evaluation": batches[4:], "loss": next_token_loss}
    return CompressData(**{**given, **others})


def fit(steps=12):
    return FitConfig(
        steps=steps, optimizer={"name": "adamw", "lr": 0.01}, scheduler="cosine", checkpoint_every=3, train_mode=False
    )


def everything(steps=12):
    return Recipe(
        "everything",
        (
            dataclasses.replace(QUICK, layers=True, name="before"),
            PruneStage(scheme=PerLayer({BLOCKS: Prune(0.5, method="sparsegpt")})),
            DistilStage(
                fit=fit(steps),
                prune=PerLayer({BLOCKS: Prune(0.75, method="movement")}),
                schedule=AGP(2, steps - 2, every=4, initial=0.5),
            ),
            FineTuneStage(fit=fit(steps), qat=PerLayer({"re:.*up": Int8()})),
            QuantizeStage(scheme=PerLayer({"re:.*down": GPTQ(Int4(32))})),
            ConvertStage(scheme=PerLayer({"lm_head": Int8()})),
            dataclasses.replace(QUICK, layers=True, name="after"),
        ),
    )


def narrower(steps=12):
    """A recipe whose students have fewer blocks, channels fewer than they, and zeros on the way to both."""
    return Recipe(
        "narrower",
        (
            QUICK,
            PRUNE,
            DistilStage(fit=fit(steps), width=0.5),
            DistilStage(name="again", fit=fit(steps), layers=1, width=0.5),
            ConvertStage(scheme=Int8()),
            dataclasses.replace(QUICK, layers=True, name="after"),
        ),
    )


def converted(*stages, name="small"):
    """A recipe that ends with a conversion."""
    return Recipe(name, (*stages, ConvertStage(scheme=Int8())))


def run(folder, recipe, model=build, given=None, **options):
    """``compress`` with these data, unless others are given, and without a word."""
    return compress(model, recipe, folder, data() if given is None else given, progress=False, **options)
