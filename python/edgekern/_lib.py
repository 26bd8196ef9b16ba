"""Loads the native module, and says how many threads it runs on."""

from __future__ import annotations

import importlib.util
import os

__all__ = ["core", "get_num_threads", "has_torch", "set_num_threads"]

try:
    import edgekern._core as core
except ImportError as error:
    raise ImportError(
        f"edgekern's native module edgekern._core did not load ({error}); "
        "build it with `pip install .` from the source tree, or install a wheel for this Python and platform"
    ) from error


def _torch_is_installed() -> bool:
    try:
        return importlib.util.find_spec("torch") is not None
    except ModuleNotFoundError:
        return False


has_torch: bool = _torch_is_installed()
"""Whether torch can be imported. Without it only :mod:`edgekern.kernels` works."""

core.default_isa()  # an EDGEKERN_ISA that this CPU cannot run is an error here, not in the middle of a model

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=core.after_fork_in_child)


def set_num_threads(n: int) -> None:
    """Sets how many threads native work uses, in this process.

    With torch installed there is one setting, torch's: this calls ``torch.set_num_threads(n)``. Native work follows
    every change of torch's setting, except under torch 2.9, which cannot lend its threads: there it follows this
    function alone.

    Raises:
        ValueError: ``n`` is below 1.
    """
    core.set_num_threads(n)
    if has_torch:
        import torch

        torch.set_num_threads(n)


def get_num_threads() -> int:
    """The number of threads native work uses at most."""
    return core.num_threads()
