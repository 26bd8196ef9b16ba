"""Exchanging layers in place, without ever leaving a model half done."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import cast

from torch import nn

from edgekern.nn import (
    NATIVE_CONVS,
    NATIVE_EMBEDDINGS,
    NATIVE_LINEARS,
    NativeEmbedding,
    NativeLayer,
    NativeLinear,
    QATLinear,
)
from edgekern.nn.fused import FusedConv2d, FusedLinear
from edgekern.nn.layers import Layer

# Handles that users hold point at these very dictionaries, so they move as they are and handle.remove() keeps working.
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_OWN_ATTRIBUTES = {
    name
    for layer in (
        QATLinear(1, 1, device="meta"),
        FusedLinear(1, 1, device="meta"),
        FusedConv2d(1, 1, 1, device="meta"),
        nn.Embedding(1, 1, device="meta"),
        *(native(1, 1, 1) for native in NATIVE_CONVS.values()),
        *(native(1, 1) for native in (*NATIVE_LINEARS.values(), *NATIVE_EMBEDDINGS.values())),
    )
    for name in vars(layer)
}

# In eval mode these modules skip their children's forward and hand the children's weights to one fused float operator,
# unless this attribute is false.
_FUSED_PATHS = ((nn.TransformerEncoderLayer, "activation_relu_or_gelu"), (nn.TransformerEncoder, "use_nested_tensor"))
_SAVED_PATH = "_edgekern_fused_path"

# Where classes of transformers say which parameters `tie_weights()` makes one tensor, by name. Native layers have no
# parameters, and those that share packed weights do so without it.
_TIES = "_tied_weights_keys"
_SAVED_TIES = "_edgekern_tied_weights_keys"


def replace(layer: Layer, new: nn.Module) -> None:
    """Puts ``new`` wherever ``layer`` stands, with its training flag, hooks and what users attached to it."""
    if layer.native_linear is not None and layer.native_linear.shared is not None:
        layer.native_linear.shared.part()
    old = vars(layer.module)
    vars(new).update({name: value for name, value in old.items() if name not in _OWN_ATTRIBUTES})
    vars(new).update({name: old[name] for name in (*_HOOKS, "training")})
    for place in layer.places:
        place.parent._modules[place.attribute] = new


def settle(model: nn.Module) -> None:
    """Has what goes round the layers of a model know which of them are native now; to be called after an exchange.

    PyTorch's fused transformer path is off where it would bypass native layers, or such as train for it, and
    transformers ties none of their parameters. Where none are left, both are as they were.
    """
    for module in model.modules():
        _settle_fused_path(module)
        _settle_ties(module)


def _settle_fused_path(module: nn.Module) -> None:
    for cls, switch in _FUSED_PATHS:
        if not isinstance(module, cls):
            continue
        native = any(isinstance(child, NativeLinear | QATLinear) for child in module.modules())
        saved = vars(module).get(_SAVED_PATH)
        if native and saved is None:
            setattr(module, _SAVED_PATH, getattr(module, switch))
            setattr(module, switch, False)
        elif not native and saved is not None:
            setattr(module, switch, saved)
            delattr(module, _SAVED_PATH)


def _settle_ties(module: nn.Module) -> None:
    saved = vars(module).get(_SAVED_TIES)
    ties = getattr(module, _TIES, None) if saved is None else saved
    if not isinstance(ties, dict):
        return
    left = {name: source for name, source in ties.items() if not _of_native(module, name, source)}
    if left != ties:
        setattr(module, _SAVED_TIES, ties)
        setattr(module, _TIES, left)
    elif saved is not None:
        setattr(module, _TIES, saved)
        delattr(module, _SAVED_TIES)


def _of_native(module: nn.Module, *names: str) -> bool:
    """Whether one of the parameters is a native layer's; names may be patterns for those of several layers, too."""
    for name in names:
        with suppress(AttributeError):
            if isinstance(module.get_submodule(name.rpartition(".")[0]), NativeLayer | NativeEmbedding):
                return True
    return False


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back until the block has ended. Only in the main thread: no other ever sees a KeyboardInterrupt."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is None:
        yield
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if held:
            signal.raise_signal(signal.SIGINT)


def return_freed_memory() -> None:
    """Gives freed heap pages back to the system, which glibc would keep: weights under 32 MiB come from its heap."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def _find_malloc_trim() -> Callable[[int], int] | None:
    try:
        return cast(Callable[[int], int], ctypes.CDLL(None).malloc_trim)
    except (AttributeError, OSError, TypeError):  # not glibc
        return None


_malloc_trim = _find_malloc_trim()
