"""Recipes that come along, at full length on real models: what they take, what is left, and how fast that is.

    python benchmarks/recipes.py distil-half       MiniLM with 3 of its 6 layers; ten to twenty minutes of two cores
    python benchmarks/recipes.py sparse80-int8     MiniLM with a fifth of its weights, in blocks; likewise
    python benchmarks/recipes.py sparse50-int8     SmolLM2-135M with half of its weights; half an hour

All learn from the Wikipedia articles that `edgekern.evaluate.wikipedia_prose` reads; perplexity is that of the first
pages, which nothing learns from. Runs are those of `edgekern compress`, in build/recipes: one that is there is only
scored and timed, and one that was killed goes on. Results are written into benchmarks/results/recipe-<name>.json, and
`python scripts/render_recipes.py` renders docs/compress.md. Needs the [lm] extra and requirements-data.txt.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import edgekern as ek
import edgekern.integrations.transformers  # so that from_pretrained reads what a run has written
from edgekern.bench import decode_in_turns
from edgekern.bench.interleave import interleave
from edgekern.compress.record_file import read_record
from edgekern.evaluate import (
    Encoder,
    LanguageModel,
    load_lee50,
    load_minilm,
    load_sentiment,
    load_simlex999,
    load_smollm2,
    load_wordsim353,
    perplexity,
    wikipedia_prose,
    windows,
)
from edgekern.machine import describe_machine

ROOT = Path(__file__).resolve().parent.parent
RUNS, RESULTS = ROOT / "build/recipes", ROOT / "benchmarks/results"
WINDOWS, TOKENS = 20, 1024  # that perplexity is measured on
ROWS = (32, 128)  # texts of a call, tokens of each
THREADS = (1, 2)


def compress(recipe: str, folder: str, *texts: str) -> dict[str, Any]:
    """Runs ``edgekern compress`` on the model in a folder; what its record says of the time."""
    run = RUNS / recipe
    machine, start = describe_machine(), time.perf_counter()
    program = [sys.executable, "-m", "edgekern_cli", "compress"]
    subprocess.run([*program, folder, "--recipe", recipe, "-o", str(run), *texts], check=True)
    seconds = time.perf_counter() - start
    stages = read_record(run).stages
    found = {
        "recipe": recipe,
        "machine": machine,
        "seconds": round(seconds),
        "stages": {stage.name: {"seconds": round(stage.seconds), "notes": stage.notes} for stage in stages},
    }
    path = run / "benchmark.json"
    if seconds < 0.5 * sum(stage.seconds for stage in stages):  # it was there already
        return json.loads(path.read_text()) if path.exists() else found
    path.write_text(json.dumps(found))
    return found


def after(model: nn.Module, run: Path, stage: str) -> nn.Module:
    """The model that a stage of a run has left behind, in the place of this one's weights."""
    (folder,) = (run / "stages").glob(f"[0-9][0-9]-{stage}")
    return ek.load(model, folder).eval()


def text_file(name: str, text: str) -> str:
    """A file for the command line."""
    RUNS.mkdir(parents=True, exist_ok=True)
    (RUNS / name).write_text(text)
    return str(RUNS / name)


# ---------------------------------------------------------------------------------------------- MiniLM


def minilm(recipe: str) -> dict[str, Any]:
    """An encoder with less of its layers or weights: what its scores and a call's milliseconds come to."""
    teacher, untaught, taught = load_minilm(), *ENCODERS[recipe]
    paragraphs = [line for line in wikipedia_prose().splitlines() if line.strip() and not line.startswith(" = ")]
    text = text_file("paragraphs.txt", "\n".join(paragraphs))
    found = compress(recipe, teacher.model.config.name_or_path, "--data", text)
    run = RUNS / recipe
    whole = copy.deepcopy(teacher.model)
    ek.convert_(whole, ek.Int8("dense"))
    models = {
        "MiniLM-L6": teacher.model,
        "MiniLM-L6, int8": whole,
        **{name: make(teacher.model, run) for name, make in (untaught, taught)},
        f"{taught[0]}, int8": type(teacher.model).from_pretrained(run / "model").eval(),
    }
    tasks = [load_lee50(), load_wordsim353(), load_simlex999(), load_sentiment()]
    scores = {}
    for name, model in models.items():
        encoder = Encoder(model, teacher.tokenizer)
        scores[name] = {task.name: float(task.score(encoder.encode)) for task in tasks}
        print(name, scores[name], flush=True)
    del models[untaught[0]]
    return {**found, "scores": scores, "rows": ROWS, "milliseconds": call_times(models, teacher.random_inputs(*ROWS))}


def half(model: nn.Module, _: Path | None = None) -> nn.Module:
    """3 of 6 layers, as they are."""
    return ek.student_from(model, layers=3)


ENCODERS = {
    "distil-half": (
        ("3 of 6 layers, untaught", half),
        ("3 layers", lambda model, run: after(half(model), run, "distil")),
    ),
    "sparse80-int8": (
        ("80 % zeros, untaught", lambda model, run: after(copy.deepcopy(model), run, "prune-80")),
        ("80 % zeros", lambda model, run: after(copy.deepcopy(model), run, "distil-80")),
    ),
}
"""By recipe: the model without its last training, and with it; each by a name, and a function of the first model."""


def call_times(models: Mapping[str, nn.Module], inputs: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """Milliseconds of a call, by threads and model, timed in turns."""
    found = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            calls = {name: lambda model=model: model(**inputs) for name, model in models.items()}
            found[threads] = {name: timed.p50 for name, timed in interleave(calls, max_seconds=40).items()}
        print(threads, found[threads], flush=True)
    return found


# ---------------------------------------------------------------------------------------------- SmolLM2


def smollm2(recipe: str) -> dict[str, Any]:
    """Half of a language model's weights: perplexity, pruned, taught, and in int8; and tokens a second."""
    lm = load_smollm2()
    prose = wikipedia_prose()
    judged = windows(lm.ids(prose), TOKENS, WINDOWS)
    ends = lm.tokenizer(prose, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    cut = ends[WINDOWS * TOKENS - 1][1]
    texts = ("--data", text_file("learnt.txt", prose[cut:]), "--eval", text_file("judged.txt", prose[:cut]))
    found = compress(recipe, lm.model.config.name_or_path, *texts)
    run = RUNS / recipe
    scores, answers = {}, {}
    models = {
        "float32": lambda: load_smollm2().model,
        "pruned": lambda: after(load_smollm2().model, run, "prune"),
        "taught": lambda: after(load_smollm2().model, run, "distil"),
        "taught, int8": lambda: type(lm.model).from_pretrained(run / "model").eval(),
    }
    for name, make in models.items():
        model = make()
        scores[name] = perplexity(model, judged)
        answers[name] = LanguageModel(model, lm.tokenizer).generate(PROMPT)
        print(name, scores[name], answers[name], flush=True)
    return {
        **found,
        "perplexity": scores,
        "text": [WINDOWS, TOKENS],
        "prompt": PROMPT,
        "answers": answers,
        "tokens_per_second": token_rates(lm, run),
    }


PROMPT = "Explain in two sentences why the sky is blue."


def token_rates(lm: LanguageModel, run: Path) -> dict[int, dict[str, float]]:
    """Tokens a second, by threads and model, written in turns after 64."""
    dense = ek.PerLayer({"lm_head": ek.Int8(), "_default": ek.Int8(form="dense")})
    models = {"float32": lm.model, "int8": load_smollm2().model}
    ek.convert_(models["int8"], dense)
    ek.fuse_blocks_(models["int8"])
    models["taught, int8"] = type(lm.model).from_pretrained(run / "model").eval()
    prompt = lm.ids(wikipedia_prose())[None, :64]
    found = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        found[threads] = decode_in_turns(models, prompt)
        print(threads, found[threads], flush=True)
    return found


def main() -> None:
    """Runs, scores, times; writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", choices=(*ENCODERS, "sparse50-int8"))
    recipe = parser.parse_args().recipe
    found = (minilm if recipe in ENCODERS else smollm2)(recipe)
    path = RESULTS / f"recipe-{recipe}.json"
    about = {"kind": f"recipe-{recipe}", "timed_on": describe_machine()}
    path.write_text(json.dumps({**about, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
