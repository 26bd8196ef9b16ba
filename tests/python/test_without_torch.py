"""What is left of edgekern where torch is missing or too old."""

import subprocess
import sys

import pytest

import edgekern

MISSING = "import sys; sys.modules['torch'] = None"
TOO_OLD = """
import importlib.machinery, sys, types
torch = types.ModuleType("torch")
torch.__spec__ = importlib.machinery.ModuleSpec("torch", None)
torch.__version__ = "2.8.1+cpu"
sys.modules["torch"] = torch
"""

ENERGY_IS_MEASURED = """
with edgekern.EnergyMeter() as meter:
    pass
assert meter.seconds >= 0 and (meter.joules is None) == bool(meter.result.why_none)
"""

KERNELS_WORK = """
import numpy as np, edgekern
from edgekern import kernels
q, scale = kernels.int8_quantize(np.eye(4, dtype=np.float32))
y = kernels.int8_linear(np.ones((2, 4), np.float32), kernels.int8_pack(q, scale))
assert np.allclose(y, 1, atol=0.02), y
assert edgekern.__version__
assert edgekern.Prune(0.5, "4x4").to_dict()["format"] == "prune"
assert edgekern.PerLayer({"_default": edgekern.Int8()}) == edgekern.config_from_dict(
    {"format": "per_layer", "rules": {"_default": {"format": "int8"}}}
)
"""

THE_REST_SAYS_WHAT_IT_NEEDS = """
import edgekern
names = "convert_ dense_ explain save load bench Report ConvertError CheckpointError prune_ MaskLock AGP PruneError"
names += " power_plan PowerPlan"
for name in names.split():
    try:
        getattr(edgekern, name)
    except ImportError as error:
        assert f"edgekern.{name} needs torch >= 2.9, but REASON; run: pip install 'torch>=2.9'" in str(error), error
    else:
        raise AssertionError(name)
try:
    from edgekern import convert_
except ImportError as error:
    assert "pip install" in str(error)
else:
    raise AssertionError
try:
    edgekern.nothing
except AttributeError as error:
    assert str(error) == "module 'edgekern' has no attribute 'nothing'"
else:
    raise AssertionError
"""


def run(script):
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("torch", "reason"), [(MISSING, "torch is not installed"), (TOO_OLD, "torch 2.8.1+cpu is too old")]
)
def test_without_a_usable_torch(torch, reason):
    run(torch + KERNELS_WORK + ENERGY_IS_MEASURED + THE_REST_SAYS_WHAT_IT_NEEDS.replace("REASON", reason))


def test_with_torch_every_public_name_is_there():
    assert not [name for name in edgekern.__all__ if not hasattr(edgekern, name)]
    assert len(set(edgekern.__all__)) == len(edgekern.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        edgekern.nothing  # noqa: B018
