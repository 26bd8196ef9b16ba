"""Rotary position embedding in one operator, inside of attention modules of other code."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekern import ops  # registers the op  # noqa: F401

FUNCTION = "apply_rotary_pos_emb"
"""What transformers' attention modules call: ``(q, k, cos, sin)`` to q and k turned."""

_rotary = torch.ops.edgekern.rotary.default
Rotate = Callable[..., tuple[Tensor, Tensor]]


class Rotary:
    """The function that an attention module calls, and one native operator in its place where that does the same.

    The operator computes what PyTorch's nine do: in float32 to the bit. Under autograd, elsewhere than on the CPU, for
    another number of dimensions or with further arguments, the function itself is called.

    Args:
        function: Su et al., 2021 (arXiv:2104.09864), as transformers has it.
    """

    def __init__(self, function: Rotate) -> None:
        self.function = function

    # Runs for every token and layer: it is written to take few steps.
    def __call__(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        """``[batch, heads, tokens, features]`` each, by ``cos`` and ``sin`` ``[batch or 1, tokens, features]``."""
        usual = not args and not kwargs and q.dim() == 4 and cos.dim() == 3 and q.size(3) == cos.size(2)
        recorded = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
        if not usual or recorded or q.device.type != "cpu" or not q.dtype is k.dtype is cos.dtype:
            return self.function(q, k, cos, sin, *args, **kwargs)
        return _rotary(q, k, cos, sin)


def rotate_natively_(module: nn.Module) -> None:
    """Lets an attention module call :class:`Rotary`. It becomes of a subclass of its class, and is else what it was.

    Nothing outside of the module changes: the class, and the function that other models call, stay as they are.
    """
    module.__class__ = _rotating(cast(Hashable, type(module)))


def rotates_by(module: nn.Module) -> Rotate | None:
    """The function that the forward of a module's class calls to rotate; None where it calls none, or is native now."""
    forward = type(module).forward
    if not isinstance(forward, FunctionType) or FUNCTION not in forward.__code__.co_names:
        return None
    function = forward.__globals__.get(FUNCTION)
    return None if isinstance(function, Rotary) else cast("Rotate | None", function)


@cache
def _rotating(cls: Any) -> type[nn.Module]:
    forward = cast(FunctionType, cls.forward)
    names = {**forward.__globals__, FUNCTION: Rotary(forward.__globals__[FUNCTION])}
    own = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    own.__kwdefaults__, own.__doc__ = forward.__kwdefaults__, forward.__doc__

    def reduce(self: nn.Module, protocol: Any) -> Any:
        return _restored, (cls,), self.__getstate__()

    members = {"forward": own, "__reduce_ex__": reduce, "__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), members)


def _restored(cls: Hashable) -> nn.Module:
    """An empty instance, for pickles and copies, which hold the class of other code."""
    native = _rotating(cls)
    return native.__new__(native)
