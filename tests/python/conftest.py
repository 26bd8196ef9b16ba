"""Fixtures of the kernel tests."""

from __future__ import annotations

import numpy as np
import pytest

from edgekern import kernels


@pytest.fixture(params=[row["name"] for row in kernels.isas()])
def isa(request):
    """Every ISA of this build; those this CPU cannot run are skipped, with what they need."""
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
