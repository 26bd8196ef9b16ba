"""Where Python's, NumPy's and torch's random number generators are, as data that a checkpoint can hold."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seeds all of them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # data pipelines may use this one
    torch.manual_seed(seed)


def generators() -> dict[str, Any]:
    """Their states: tensors, numbers and tuples of them."""
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    found = {
        "python": random.getstate(),
        "numpy": {
            "key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
            "pos": int(numpy["state"]["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "gauss": float(numpy["gauss"]),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def set_generators(state: Mapping[str, Any]) -> None:
    """Takes them to where they were."""
    numpy = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state(  # noqa: NPY002
        ("MT19937", numpy["key"].numpy().astype(np.uint32), numpy["pos"], numpy["has_gauss"], numpy["gauss"])
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def kept_generators() -> Iterator[None]:
    """Inside, generators may go where they like; afterwards they are where they were."""
    state = generators()
    try:
        yield
    finally:
        set_generators(state)
