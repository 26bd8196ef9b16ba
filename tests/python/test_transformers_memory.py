"""Loading in little memory: a checkpoint is written that is larger than what the process may take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")

from safetensors.torch import save_file  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")

# Layers of a Llama; EDGEKERN_TEST_LAYERS=60 makes it 2 GB.
LAYERS = int(os.environ.get("EDGEKERN_TEST_LAYERS", "16"))
WIDTH, INNER, WORDS, LAYERS_A_FILE = 1024, 4096, 1000, 5
LINEAR = {
    **{f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkvo"},
    **{f"mlp.{name}_proj": (INNER, WIDTH) for name in ("gate", "up")},
    "mlp.down_proj": (WIDTH, INNER),
}
LAYER = sum(rows * columns for rows, columns in LINEAR.values())
SLACK = 60e6  # the embedding, scales, files' pages between two times they are given back, what libraries keep

LOAD = """
import sys
import torch
from pathlib import Path
from transformers import AutoModelForCausalLM
import edgekern as ek
from edgekern.integrations.transformers import EdgekernConfig

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

how, folder, out, dtype = sys.argv[1:]
torch.set_num_threads(1)
before = peak()
given = {"quantization_config": EdgekernConfig(ek.Int8())} if how == "layer by layer" else {}
model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **given)
if how == "whole":
    ek.convert_(model, ek.Int8())
    ek.fuse_blocks_(model)
after = peak()
if out:
    model.save_pretrained(out)
with torch.inference_mode():
    logits = model(torch.arange(16)[None]).logits
print(after - before, logits.float().abs().sum().item())
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A Llama of bfloat16 weights in several files, written one file at a time."""
    folder = tmp_path_factory.mktemp("large")
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    torch.manual_seed(0)
    places = {}
    for start in range(0, LAYERS, LAYERS_A_FILE):
        tensors = {}
        for layer in range(start, min(start + LAYERS_A_FILE, LAYERS)):
            prefix = f"model.layers.{layer}"
            for name, shape in LINEAR.items():
                tensors[f"{prefix}.{name}.weight"] = torch.randn(shape, dtype=torch.bfloat16) * 0.03
            for norm in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{prefix}.{norm}.weight"] = torch.ones(WIDTH, dtype=torch.bfloat16)
        if start == 0:
            tensors["model.embed_tokens.weight"] = torch.randn(WORDS, WIDTH, dtype=torch.bfloat16)
            tensors["model.norm.weight"] = torch.ones(WIDTH, dtype=torch.bfloat16)
        file = f"model-{start // LAYERS_A_FILE + 1:05}-of-{-(-LAYERS // LAYERS_A_FILE):05}.safetensors"
        places.update(dict.fromkeys(tensors, file))
        save_file(tensors, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": sum(file.stat().st_size for file in folder.iterdir())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def load(how, folder, out="", dtype="bfloat16"):
    """Peak resident bytes over those before, and a sum of outputs, of a process of its own."""
    command = [sys.executable, "-c", LOAD, how, str(folder), str(out), dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    peak, total = map(float, done.stdout.split())
    return peak, total


@pytest.mark.not_emulated("takes minutes")
def test_the_peak_is_the_converted_model_and_a_layer(checkpoint, tmp_path):
    stored = sum(file.stat().st_size for file in Path(checkpoint).iterdir())
    converted, one_layer = LAYERS * LAYER, 2 * LAYER  # in int8, and in bfloat16
    assert stored > 2 * converted
    most = converted + one_layer + SLACK
    assert most < 0.7 * stored  # or the limit would prove nothing

    whole, expected = load("whole", checkpoint)
    assert whole > stored
    peak, outputs = load("layer by layer", checkpoint, tmp_path / "out")
    assert outputs == expected
    assert peak < most
    again, outputs = load("saved", tmp_path / "out")
    assert outputs == expected
    assert again < most
    from_float32, _ = load("layer by layer", checkpoint, dtype="float32")
    assert from_float32 < most + one_layer
