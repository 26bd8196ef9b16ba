"""What linear layers on native kernels have in common, whatever their weights are."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from edgekern import ops
from edgekern._lib import core
from edgekern.config import Scheme
from edgekern.nn.fused import FusedLinear
from edgekern.nn.native_layer import NativeLayer

if TYPE_CHECKING:
    from typing_extensions import Self

    from edgekern.nn.shared_input import SharedInput


class NativeLinear(NativeLayer):
    """``nn.Linear`` on native kernels, for inference on the CPU: ``activation(x @ weight.T + bias)``.

    Input: ``[..., in_features]`` float32, bfloat16 or float16, any strides. Output: ``[..., out_features]``, its dtype.
    Under autograd the call raises, since there is no backward. ``from_linear`` makes a layer that is not empty; see
    :class:`NativeLayer` for how weights are held, and for arguments that are not here.

    Args:
        in_features: K, columns of the weight.
        out_features: N, rows of the weight.

    Raises:
        ValueError: a size below 1 or too large; and as :class:`NativeLayer`.
    """

    float_name: ClassVar[str] = "nn.Linear"
    _chosen_here: ClassVar[tuple[str, ...]] = ("packed", "choice", "shared", "linear_code")

    linear_code: int
    """Of :data:`edgekern.ops.LINEARS`, by which another op may run this layer; -1 where none may."""
    shared: SharedInput | None
    """The layers that are computed in the same call, where :func:`edgekern.share_inputs_` has found any."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "none",
        *,
        dtype: torch.dtype = torch.float32,
        bias_dtype: torch.dtype | None = None,
        scheme: Scheme | None = None,
    ) -> None:
        if not self.fits(in_features, out_features):
            name = type(self).__name__
            raise ValueError(f"{name}: cannot pack {in_features} features in, {out_features} out; at least 1 each")
        super().__init__(bias, activation, dtype, bias_dtype, scheme)
        if reason := self.obstacle_in_activations(self.scheme):
            raise ValueError(f"{type(self).__name__}: {reason}")
        self.in_features = in_features
        self.out_features = out_features

    def _empty(self) -> None:
        super()._empty()
        self.shared = None
        self.linear_code = -1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """``[out_features, in_features]``."""
        return (self.out_features, self.in_features)

    # ------------------------------------------------------------------------------------- from and to floats

    @staticmethod
    def fits(in_features: int, out_features: int) -> bool:
        """Whether a weight of this shape can be packed: neither empty nor beyond the limits of the native library."""
        try:
            return min(in_features, out_features) >= 1 and core.int8_dense_packed_size(out_features, in_features) > 0
        except (TypeError, ValueError):  # TypeError: no 64-bit integers
            return False

    def _code_as(self, format: str) -> int:
        """What ``linear_code`` is when one packing of this format is all that the layer runs on."""
        return ops.LINEARS[format] if self.activation == "none" else -1

    @classmethod
    def obstacle_in_activations(cls, scheme: Scheme) -> str:
        """Why no such layer takes activations as ``scheme`` has them; empty when it does."""
        return ""

    @classmethod
    def like(cls, linear: nn.Linear, scheme: Scheme | None = None) -> Self:
        """An empty layer with the sizes, dtypes and activation of ``linear``."""
        out_features, in_features = linear.weight.shape
        dtype, bias_dtype = linear.weight.dtype, None if linear.bias is None else linear.bias.dtype
        activation = linear.activation if isinstance(linear, FusedLinear) else "none"
        has_bias = bias_dtype is not None
        return cls(in_features, out_features, has_bias, activation, dtype=dtype, bias_dtype=bias_dtype, scheme=scheme)

    @classmethod
    def from_linear(cls, linear: nn.Linear, scheme: Scheme | None = None) -> Self:
        """The native counterpart of one dense layer, which stays as it is."""
        layer = cls.like(linear, scheme)
        layer.take_(linear.weight, linear.bias)
        return layer

    def dense(self) -> nn.Linear:
        """A dense ``nn.Linear`` with the same weights, in the original dtype; a ``FusedLinear`` with an activation."""
        has_bias = self.bias_dtype is not None
        linear = nn.Linear(self.in_features, self.out_features, has_bias, device="meta")
        if self.activation != "none":
            linear = FusedLinear.of(linear, self.activation)
        self._fill(linear)
        return linear

    # ---------------------------------------------------------------------------------------- nn.Module

    def extra_repr(self) -> str:
        """Sizes and, when there is one, the activation."""
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias_dtype is not None}"
        return text if self.activation == "none" else f"{text}, activation={self.activation!r}"
