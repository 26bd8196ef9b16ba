"""Fixtures of the kernel tests, and what is different under an emulator (scripts/qemu_test.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from edgekern import kernels

EMULATED_PYTHON = os.environ.get("EDGEKERN_TEST_PYTHON")
if EMULATED_PYTHON:
    sys.executable = EMULATED_PYTHON  # child processes run on the emulated CPU too
    settings.register_profile("emulated", max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("emulated")


def pytest_report_header():  # scripts/qemu_test.py reads it
    supported = [row["name"] for row in kernels.isas() if row["supported"]]
    return f"edgekern: {kernels.default_isa()} of {', '.join(supported)}"


def pytest_runtest_setup(item):
    marker = item.get_closest_marker("not_emulated")
    if marker and EMULATED_PYTHON:
        pytest.skip(f"not under an emulator: {marker.args[0]}")


# Emulated, each ISA is tested on the CPU that chooses it; to skip hundreds of tests would take the emulator seconds.
ISAS = [kernels.default_isa()] if EMULATED_PYTHON else [row["name"] for row in kernels.isas()]


@pytest.fixture(params=ISAS)
def isa(request):
    """Every ISA of this build; those this CPU cannot run are skipped, with what they need. Emulated: the one chosen."""
    row = next(row for row in kernels.isas() if row["name"] == request.param)
    if not row["supported"]:
        pytest.skip(f"this CPU lacks {', '.join(row['missing'])}")
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)


@pytest.fixture(autouse=True)
def _restore_num_threads():
    before = kernels.get_num_threads()
    yield
    if kernels.get_num_threads() != before:
        kernels.set_num_threads(before)


@pytest.fixture
def seeded():
    """For tests that build models: with the same weights each time."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread():
    """For tests of many small steps, where threads only wait for each other; on a busy machine, for long."""
    before = kernels.get_num_threads()
    kernels.set_num_threads(1)
    yield
    kernels.set_num_threads(before)


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """Runs a scenario of parallel_scenarios.py on so many ranks; what became of each of them."""
    script = Path(__file__).with_name("parallel_ranks.py")
    server = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(scenario, count, args=None, **order):
        folder = order.pop("folder", None) or tmp_path_factory.mktemp(scenario)
        order |= {"scenario": scenario, "ranks": count, "folder": str(folder), "args": args or {}}
        print(json.dumps(order), file=server.stdin, flush=True)
        return json.loads(server.stdout.readline())

    yield run
    server.stdin.close()
    server.wait(timeout=20)
