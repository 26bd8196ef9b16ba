"""Memory of the process during and after conversion, measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc to reset and read the peak of the process"
)

LAYERS, FEATURES = 12, 2048

# Peaks include the kernels' code and small allocations; this much is not counted against the bars.
SLACK = 2 << 20

SCRIPT = """
import gc, json, sys
from pathlib import Path
import torch
from torch import nn
import edgekern as ek
from edgekern.nn.swap import return_freed_memory

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

dtype, layers, features = getattr(torch, sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
scheme = {"int8": ek.Int8(), "int4": ek.Int4(), "f32": ek.Float32(channels=4)}[sys.argv[4]]

def prune(model):
    for layer in model:
        rows = torch.arange(layer.out_features) // 4
        layer.weight *= (rows[:, None] + torch.arange(layer.in_features) // 4) % 5 == 0
    return model

with torch.no_grad():
    small = prune(nn.Sequential(nn.Linear(64, 64, dtype=dtype)))
    ek.convert_(small, scheme)  # everything lazy is loaded now
torch.ones(7 << 20)  # as loading a checkpoint does: from now on glibc serves blocks of this size from its heap
return_freed_memory()
with torch.no_grad():
    before_model = resident("VmRSS")
    model = nn.Sequential(*(nn.Linear(features, features, dtype=dtype) for _ in range(layers)))
    if sys.argv[4] == "f32":
        prune(model)
        return_freed_memory()
    original = resident("VmRSS") - before_model
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    report = ek.convert_(model, scheme)
    after, peak = resident("VmRSS"), resident("VmHWM")
print(json.dumps({
    "original": original,
    "dense": report.bytes_before,
    "packed": report.bytes_after,
    "after": after - before_model,
    "peak": peak - before_model,
}))
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("format", ["int8", "int4", "f32"])
def test_conversion_frees_as_it_goes(dtype, format):
    command = [sys.executable, "-c", SCRIPT, dtype, str(LAYERS), str(FEATURES), format]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert seen["original"] >= 0.99 * seen["dense"], "the measurement missed the model"
    assert seen["packed"] < 0.7 * seen["dense"]
    assert seen["after"] <= 1.15 * seen["packed"] + SLACK, seen
    assert seen["peak"] <= seen["dense"] * (1 + 2 / LAYERS) + SLACK, seen
