"""What the process decides: the ISA from the environment, torch absent, fork, the CPU found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgekern import kernels


def run_python(code, **environment):
    """Runs code in a fresh interpreter, torch hidden from it when asked."""
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


HIDE_TORCH = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Hide())
"""

USE_KERNELS = """
import sys, threading
import numpy as np
from edgekern import kernels
rng = np.random.default_rng(0)
x = rng.standard_normal((40, 200), np.float32)  # enough for threads
packed = kernels.int8_pack(*kernels.int8_quantize(rng.standard_normal((400, 200), np.float32)))
expected = kernels.int8_linear(x, packed)
assert "torch" not in sys.modules
"""


def test_kernels_work_without_torch():
    code = """
for n in (1, 2, 3):
    kernels.set_num_threads(n)
    assert kernels.get_num_threads() == n
    assert (kernels.int8_linear(x, packed) == expected).all()
results = []
def work():
    for _ in range(20):
        results.append((kernels.int8_linear(x, packed) == expected).all())
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for n in (2, 4, 1, 3): kernels.set_num_threads(n)
for thread in threads: thread.join()
assert len(results) == 80 and all(results)
"""
    done = run_python(HIDE_TORCH + USE_KERNELS + code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.not_emulated("qemu-user 7.2 starts no threads in a forked child")
def test_the_builtin_pool_works_after_fork():
    code = """
import os
kernels.set_num_threads(3)
assert (kernels.int8_linear(x, packed) == expected).all()
child = os.fork()
if child == 0:
    ok = kernels.get_num_threads() == 3 and (kernels.int8_linear(x, packed) == expected).all()
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
assert (kernels.int8_linear(x, packed) == expected).all()
"""
    done = run_python(HIDE_TORCH + USE_KERNELS + code)
    assert done.returncode == 0, done.stderr


def test_the_environment_picks_the_isa(isa):
    done = run_python("from edgekern import kernels; print(kernels.default_isa())", EDGEKERN_ISA=isa)
    assert done.stdout.strip() == isa, done.stderr


def test_an_unknown_isa_in_the_environment_is_named():
    done = run_python("import edgekern", EDGEKERN_ISA="mmx")
    assert done.returncode != 0
    assert "EDGEKERN_ISA='mmx'" in done.stderr
    assert "scalar" in done.stderr  # what this CPU runs


def test_an_unsupported_isa_says_what_is_missing():
    rows = [row for row in kernels.isas() if not row["supported"]]
    if not rows:
        pytest.skip("this CPU runs every ISA of this build")
    for row in rows:
        done = run_python("import edgekern", EDGEKERN_ISA=row["name"])
        assert done.returncode != 0
        assert row["missing"][-1] in done.stderr
        assert kernels.default_isa() in done.stderr


def test_the_cpu_is_described():
    cpu = kernels.cpu()
    assert cpu["name"]
    assert all(isinstance(feature, str) for feature in cpu["features"])
    supported = [row["name"] for row in kernels.isas() if row["supported"]]
    assert "scalar" in supported
    assert all((not row["missing"]) == row["supported"] for row in kernels.isas())
