"""The memory that converting a large model takes: Llama-7B's layers, as many as asked for, to int4 on the command line.

    python benchmarks/quantize_memory.py                    10 layers, 4.6 GB on disk, and 1.7 GB converted
    python benchmarks/quantize_memory.py --layers 32        the whole model

Writes random weights in bfloat16 tensor by tensor, has `edgekern quantize` convert them in a process of its own that
may not take more than the converted model, one of its linear layers and a fixed allowance over what it takes for a
tiny model, loads the result in another, and keeps both peaks in benchmarks/results/quantize-memory.json, which
`python scripts/render_language_models.py` renders into docs/language-models.md. Linux only.

The limit is a memory cgroup's, where this user may make one: the kernel then ends the process that needs more. Without
one, the peak is measured alone. Either way a peak above the limit is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig

from edgekern.checkpoint.stream import write_tensors
from edgekern.machine import describe_machine

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks/results/quantize-memory.json"
SCHEME = "int4"
FILE_BYTES = 2_000_000_000
ALLOWANCE = 64 << 20  # pages of files between two times they are given back, and what the allocator keeps
SIZES = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
TINY = {"vocab_size": 256, "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4}

LOAD = """
import sys
import torch
from transformers import AutoModelForCausalLM
import edgekern.integrations.transformers
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
with torch.inference_mode():
    assert model(torch.arange(8)[None]).logits.isfinite().all()
"""


def tensors_like(config: LlamaConfig) -> dict[str, Tensor]:
    """Every tensor of the model on the meta device."""
    width, inner, words = config.hidden_size, config.intermediate_size, config.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, width)}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes[f"{prefix}.mlp.down_proj.weight"] = (width, inner)
        shapes |= {f"{prefix}.{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (words, width)}
    return {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in shapes.items()}


def generate(folder: Path, layers: int, sizes: dict[str, int]) -> dict[str, Tensor]:
    """Writes a checkpoint of random weights, one tensor in memory at a time; what is in it."""
    config = LlamaConfig(
        **sizes,
        num_hidden_layers=layers,
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    folder.mkdir()
    config.save_pretrained(folder)
    like = tensors_like(config)
    random = torch.Generator().manual_seed(0)

    def values(tensor: Tensor) -> Tensor:
        if tensor.ndim == 1:
            return torch.ones(tensor.shape, dtype=tensor.dtype)
        # Some rows of noise, over and over: to draw every value would take longer than to convert it.
        rows = torch.randn(256, tensor.shape[1], generator=random).mul_(0.03).to(tensor.dtype)
        return rows.repeat(-(-len(tensor) // 256), 1)[: len(tensor)].contiguous()

    write_tensors(folder, like, ((name, values(tensor)) for name, tensor in like.items()), FILE_BYTES)
    return like


@dataclass
class Peak:
    """The most that a process took, in bytes."""

    resident: int = 0
    """All that was in memory, pages of files among it: floats of a model are such, as they are not copied."""
    anonymous: int = 0
    """Its own: what no file could give back. Looked at every 20 ms."""
    seconds: float = 0.0
    """By the clock; on a machine that others use it says little."""


@contextmanager
def memory_cgroup(limit: int | None) -> Iterator[Path | None]:
    """A control group below this process's own, of at most `limit` bytes; None where there can be none."""
    group = _make_group(limit) if limit else None
    try:
        yield group
    finally:
        if group is not None:
            for _ in range(50):  # the kernel takes a moment to see that the process has ended
                with suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(0.1)


def _make_group(limit: int) -> Path | None:
    """With cgroup v2 or v1, as mounted."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        name = "memory.max" if not controllers else "memory.limit_in_bytes"
        group = Path("/sys/fs/cgroup", controllers) / path.strip("/") / f"edgekern-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        with suppress(OSError):
            (group / name).write_text(str(limit))
            return group
        group.rmdir()
    return None


def run(command: list[str], limit: int | None = None) -> tuple[Peak, bool]:
    """Runs a command; its peak, and whether the kernel held it to the limit.

    Raises:
        RuntimeError: it failed, or took more than `limit`.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with memory_cgroup(limit) as group, tempfile.TemporaryFile("w+") as log:
        entry = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
        inside = [] if group is None else [sys.executable, "-c", entry, str(group / "cgroup.procs")]
        start = time.perf_counter()
        process = subprocess.Popen([*inside, *command], stdout=log, stderr=log, env=environment)
        peak = watch(process)
        peak.seconds = time.perf_counter() - start
        log.seek(0)
        if process.returncode:
            killed = " (killed, as it needed more)" if process.returncode == -9 else ""
            raise RuntimeError(f"{command[-3:]} ended with {process.returncode}{killed}\n{log.read()[-3000:]}")
        if limit is not None and peak.resident > limit:
            raise RuntimeError(f"{command[-3:]} took {peak.resident:,} bytes, more than {limit:,}")
        return peak, group is not None


def watch(process: subprocess.Popen[bytes]) -> Peak:
    """Waits for a process to end, looking at what it takes."""
    peak = Peak()
    while process.poll() is None:
        with suppress(OSError, IndexError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            fields = {key: int(status.split(f"{key}:")[1].split()[0]) * 1024 for key in ("VmHWM", "RssAnon")}
            peak.resident = max(peak.resident, fields["VmHWM"])
            peak.anonymous = max(peak.anonymous, fields["RssAnon"])
        time.sleep(0.02)
    return peak


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def convert(folder: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "edgekern_cli", "quantize", str(folder), "--scheme", SCHEME, "-o", str(output)]


def measure(work: Path, layers: int) -> dict[str, Any]:
    """Converts and loads in `work`, which holds nothing yet."""
    machine = describe_machine()
    generate(work / "tiny", 1, TINY)
    tiny, _ = run(convert(work / "tiny", work / "tiny-out"))
    tiny_load, _ = run([sys.executable, "-c", LOAD, str(work / "tiny-out")])
    like = generate(work / "model", layers, SIZES)
    layer = max(tensor.nbytes for name, tensor in like.items() if ".layers." in name)
    # What is saved is what is in memory: packed weights take as many bytes as canonical ones.
    converted = expected_bytes(like)
    limit = converted + layer + ALLOWANCE
    peak, held = run(convert(work / "model", work / "out"), tiny.resident + limit)
    saved = size_of(work / "out")
    loaded, _ = run([sys.executable, "-c", LOAD, str(work / "out")], tiny_load.resident + limit)
    return {
        "kind": "quantize-memory",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine,
        "scheme": SCHEME,
        "layers": layers,
        "sizes": SIZES,
        "checkpoint_bytes": size_of(work / "model"),
        "files": len(list((work / "model").glob("*.safetensors"))),
        "file_bytes": FILE_BYTES,
        "converted_bytes": saved,
        "layer_bytes": layer,
        "allowance_bytes": ALLOWANCE,
        "limit_bytes": limit,
        "held_by_kernel": held,
        "convert": facts(peak, tiny),
        "load": facts(loaded, tiny_load),
    }


def expected_bytes(like: dict[str, Tensor]) -> int:
    """Of the converted model: int4 by groups of 128 has half a byte a weight, two for a scale, one for a zero point."""
    total = 0
    for name, tensor in like.items():
        if ".layers." in name and tensor.ndim == 2:
            total += tensor.numel() // 2 + 3 * tensor.numel() // 128
        else:
            total += tensor.nbytes
    return total


def facts(peak: Peak, tiny: Peak) -> dict[str, Any]:
    """A peak over that for a tiny model, which is Python's and the libraries'."""
    return {
        "resident_bytes": peak.resident - tiny.resident,
        "anonymous_bytes": peak.anonymous - tiny.anonymous,
        "libraries_bytes": tiny.resident,
        "seconds": round(peak.seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=10, help="of the model's 32")
    parser.add_argument("--work", type=Path, help="folder on a disk with room; the system's temporary one otherwise")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(dir=options.work, prefix="edgekern-memory-"))
    try:
        result = measure(work, options.layers)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
