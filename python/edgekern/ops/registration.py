"""Registers the native kernels with torch's dispatcher, and what torch needs to know of each op in Python.

That is what an op makes of fake tensors, whose values cannot be read: its checks, and an empty result.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch

from edgekern._lib import core
from edgekern.kernels import FLOATS

__all__ = ["DTYPES", "check_fake", "check_fake_images", "is_channels_last", "register"]

DTYPES = {code: getattr(torch, name) for name, code in FLOATS.items()}
"""What the ops' codes of :data:`~edgekern.ops.FLOATS` stand for."""


def _torch_symbols() -> dict[str, int]:
    """Addresses of torch's C functions, by name."""
    libraries = ctypes.CDLL(torch._C.__file__)  # finds the functions of every library torch._C depends on
    addresses: dict[str, int] = {}
    for name, required in core.torch_symbols().items():
        function = getattr(libraries, name, None)
        if function is not None:
            addresses[name] = ctypes.cast(function, ctypes.c_void_p).value or 0
        elif required:
            raise ImportError(
                f"edgekern needs torch >= 2.9: torch {torch.__version__} lacks the C function {name}; "
                "upgrade with `pip install 'torch>=2.9'`"
            )
    return addresses


core.set_num_threads(torch.get_num_threads())  # the built-in pool serves under torch 2.9, which cannot lend its own
core.register_torch_ops(_torch_symbols())

_library = torch.library.Library("edgekern", "FRAGMENT")


def register(op: str, fake: Callable[..., Any]) -> None:
    """Tells torch what ``op``, whose kernel is registered, makes of fake tensors, and that it has no backward."""
    # The kernels themselves raise an error where a backward pass would need them. Without this line torch's fallback
    # for ops that know no autograd runs before every call: it costs half a microsecond and would let a backward pass go
    # through with a warning.
    _library.impl(op, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"edgekern::{op}", fake)


def check_fake(op: str, x: torch.Tensor, *packed: torch.Tensor) -> None:
    """Raises ``ValueError`` for what is not on the CPU, and for an ``x`` that requires grad."""
    devices = [x.device, *(tensor.device for tensor in packed)]
    if any(device.type != "cpu" for device in devices):
        raise ValueError(
            f"edgekern.{op}: x and packed must be on the CPU, got {' and '.join(map(str, devices))}; "
            "move the model with model.cpu() and the input with x.cpu(), or call edgekern.dense_(model) to run "
            "elsewhere"
        )
    if torch.is_grad_enabled() and x.requires_grad:
        raise ValueError(
            f"edgekern.{op} has no backward, and x requires grad: wrap the call in torch.inference_mode() or "
            "torch.no_grad() for inference, or call edgekern.dense_(model) to train"
        )


def check_fake_images(op: str, x: torch.Tensor, *packed: torch.Tensor) -> None:
    """The same, and for an ``x`` that is no images."""
    check_fake(op, x, *packed)
    if x.dim() != 4:
        raise ValueError(f"edgekern.{op}: x must be images [batch, channels, height, width], got shape {list(x.shape)}")


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether an op gives its result in channels_last for images that lie as ``x`` does."""
    return not x.is_contiguous() and x.stride(1) == 1
