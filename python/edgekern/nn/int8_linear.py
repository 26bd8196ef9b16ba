"""The int8 linear layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgekern import ops
from edgekern._lib import core
from edgekern.config import Int8
from edgekern.kernels import form_code
from edgekern.nn.forms import Choice, choose

# Looked up once: going through torch.ops at every call would cost as much as a small layer.
_int8_linear = torch.ops.edgekern.int8_linear.default


class Int8Linear(nn.Module):
    """``nn.Linear`` on 8-bit weights and activations, for inference on the CPU: ``activation(x @ weight.T + bias)``.

    Input: ``[..., in_features]`` float32, bfloat16 or float16, any strides. Output: ``[..., out_features]``, its dtype.
    Under autograd the call raises, since there is no backward.

    The weights live in a packed buffer laid out for this machine's kernels (``packed``, neither a parameter nor a
    buffer), or in two, when the scheme allows a second one (``packed_few``) for calls of few rows. What leaves the
    process is canonical and the same on every machine: a state dict holds ``weight`` int8 ``[out_features,
    in_features]``, ``weight_scale`` float32 ``[out_features, 1]`` and ``bias``, and so do pickles and copies. A new
    layer is empty, as on the meta device, until ``load_state_dict``; ``from_linear`` makes a full one.

    Args:
        in_features: K, columns of the weight.
        out_features: N, rows of the weight.
        bias: whether there is a bias.
        activation: applied before the result is stored: "none", "relu", "gelu", "gelu_tanh" or "silu".
        dtype: what ``weight`` and ``dense()`` give back: torch.float32, bfloat16 or float16.
        bias_dtype: dtype of the bias outside the packed buffer; ``dtype`` when not given.
        scheme: how pruned weights are packed; ``Int8()`` when not given.

    Raises:
        ValueError: a size below 1 or too large, an unknown activation or another dtype.
    """

    format: ClassVar[str] = Int8.format
    DTYPES: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16, torch.float16)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "none",
        *,
        dtype: torch.dtype = torch.float32,
        bias_dtype: torch.dtype | None = None,
        scheme: Int8 | None = None,
    ) -> None:
        super().__init__()
        if not self.fits(in_features, out_features):
            raise ValueError(f"Int8Linear: cannot pack {in_features} features in, {out_features} out; at least 1 each")
        if activation not in ops.ACTIVATIONS:
            raise ValueError(f"activation: expected one of {', '.join(ops.ACTIVATIONS)}; got {activation!r}")
        for name, value in (("dtype", dtype), ("bias_dtype", bias_dtype or dtype)):
            if value not in self.DTYPES:
                raise ValueError(f"{name}: expected torch.float32, bfloat16 or float16; got {value}")
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        self.dtype = dtype
        self.bias_dtype = (bias_dtype or dtype) if bias else None
        self.scheme = scheme or Int8()
        self.choice = Choice()
        self.packed = _empty_bytes(0)
        self.packed_few: Tensor | None = None
        self._few_elements = 0
        self._activation_code = ops.ACTIVATIONS[activation]

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``, in the dtype of ``input``."""
        packed = self.packed
        if self.packed_few is not None and input.numel() <= self._few_elements:
            packed = self.packed_few
        return _int8_linear(input, packed, self.out_features, self._activation_code)

    # ------------------------------------------------------------------------------- from and to floats

    @staticmethod
    def fits(in_features: int, out_features: int) -> bool:
        """Whether a weight of this shape can be packed: neither empty nor beyond the native limits."""
        try:
            return min(in_features, out_features) >= 1 and core.int8_dense_packed_size(out_features, in_features) > 0
        except (TypeError, ValueError):  # TypeError: no 64-bit integers
            return False

    @classmethod
    def like(cls, linear: nn.Linear, scheme: Int8 | None = None) -> Int8Linear:
        """An empty layer with the sizes and dtypes of ``linear``."""
        out_features, in_features = linear.weight.shape
        dtype, bias_dtype = linear.weight.dtype, None if linear.bias is None else linear.bias.dtype
        has_bias = bias_dtype is not None
        return cls(in_features, out_features, has_bias, dtype=dtype, bias_dtype=bias_dtype, scheme=scheme)

    @classmethod
    def from_linear(cls, linear: nn.Linear, scheme: Int8 | None = None) -> Int8Linear:
        """The quantised counterpart of one dense layer, which stays as it is."""
        layer = cls.like(linear, scheme)
        layer.quantize_(linear.weight, linear.bias)
        return layer

    @property
    def dense_packed_size(self) -> int:
        """Bytes of the packed buffer when all weights are kept."""
        return core.int8_dense_packed_size(self.out_features, self.in_features)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed weights in memory."""
        return self.packed.nbytes + (0 if self.packed_few is None else self.packed_few.nbytes)

    def quantize_(self, weight: Tensor, bias: Tensor | None, packed: Tensor | None = None) -> None:
        """Takes dense weights ``[out_features, in_features]``; ``packed`` may bring a buffer of ``dense_packed_size``.

        Raises:
            ValueError: the scheme names a form that cannot hold these weights.
        """
        q, scale = ops.int8_quantize(weight.detach())
        self._pack(q, scale, bias, packed)

    def dense(self) -> nn.Linear:
        """A dense ``nn.Linear`` with the dequantised weights, in the original dtype.

        Raises:
            ValueError: the layer applies an activation, which nn.Linear cannot.
        """
        if self.activation != "none":
            raise ValueError(f"Int8Linear with activation={self.activation!r} has no nn.Linear equivalent")
        linear = nn.Linear(self.in_features, self.out_features, self.bias_dtype is not None, device="meta")
        tensors = self._canonical()
        linear.weight = nn.Parameter(_dequantize(tensors["weight"], tensors["weight_scale"], self.dtype))
        if "bias" in tensors:
            linear.bias = nn.Parameter(tensors["bias"])
        return linear.train(self.training)

    @property
    def weight(self) -> Tensor:
        """The weights dequantised to ``dtype``: a new ``[out_features, in_features]`` tensor at every access."""
        tensors = self._canonical()
        return _dequantize(tensors["weight"], tensors["weight_scale"], self.dtype)

    @property
    def bias(self) -> Tensor | None:
        """A new tensor ``[out_features]`` at every access, or None."""
        return None if self.bias_dtype is None else self._canonical()["bias"]

    # -------------------------------------------------------------------------- canonical tensors in and out

    def canonical_like(self) -> dict[str, Tensor]:
        """Names, shapes and dtypes of the canonical tensors, as tensors on the meta device."""
        n, k = self.out_features, self.in_features
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "weight": ((n, k), torch.int8),
            "weight_scale": ((n, 1), torch.float32),
        }
        if self.bias_dtype is not None:
            shapes["bias"] = ((n,), self.bias_dtype)
        return {name: torch.empty(shape, dtype=dtype, device="meta") for name, (shape, dtype) in shapes.items()}

    def _canonical(self) -> dict[str, Tensor]:
        if not self.packed.numel():
            return self.canonical_like()
        q, scale, bias = ops.int8_unpack(self.packed)
        tensors = {"weight": q, "weight_scale": scale.unsqueeze(1)}
        if bias is not None and self.bias_dtype is not None:
            tensors["bias"] = bias.to(self.bias_dtype)
        return tensors

    def _pack(self, q: Tensor, scale: Tensor, bias: Tensor | None, packed: Tensor | None = None) -> None:
        choice = choose(q, self.scheme)
        bias = None if bias is None else bias.detach().float()
        if choice.form == "dense":
            packed = _empty_bytes(self.dense_packed_size) if packed is None else packed
            bias_array = None if bias is None else bias.numpy()
            core.int8_pack(q.numpy(), scale.flatten().numpy(), bias_array, packed.numpy(), form_code("dense"))
        else:
            packed = ops.int8_pack(q, scale.flatten(), bias, choice.form)
        self.packed_few = ops.int8_pack(q, scale.flatten(), bias, choice.few) if choice.few else None
        self.packed, self.choice, self._few_elements = packed, choice, choice.few_rows * self.in_features

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: tensor for name, tensor in self._canonical().items()})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # A bare module with our canonical tensors as buffers lets torch itself do its checks and keep its lists.
        slots = nn.Module()
        for name, tensor in self.canonical_like().items():
            slots.register_buffer(name, tensor)
        slots._load_state_dict_pre_hooks = self._load_state_dict_pre_hooks
        lists = (strict, missing_keys, unexpected_keys, error_msgs)
        slots._load_from_state_dict(state_dict, prefix, {**local_metadata, "assign_to_params_buffers": True}, *lists)
        given = {name: tensor.cpu() for name, tensor in slots.state_dict().items() if not tensor.is_meta}
        absent = [name for name in slots.state_dict() if name not in given]
        if given and absent:
            error_msgs.append(f"{prefix}*: int8 tensors are loaded together; without {', '.join(absent)} none was")
        elif given:
            self._load(given, prefix, error_msgs)

    def _load(self, tensors: dict[str, Tensor], prefix: str, error_msgs: list[str]) -> None:
        for name, slot in self.canonical_like().items():
            # The bias is cast, as torch does on loading; integers and their scales mean nothing in another dtype.
            if name != "bias" and tensors[name].dtype != slot.dtype:
                error_msgs.append(
                    f"dtype mismatch for {prefix}{name}: expected {slot.dtype}, got {tensors[name].dtype}; "
                    "float weights load into the dense model, before convert_"
                )
                return
        bias = tensors.get("bias")
        try:
            if not tensors["weight_scale"].isfinite().all():
                raise ValueError("NaN or infinite scale")
            self._pack(tensors["weight"], tensors["weight_scale"], bias if bias is None else bias.to(self.bias_dtype))
        except (ValueError, RuntimeError) as error:
            error_msgs.append(f"While packing {prefix}weight: {error}")

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        for name in ("packed", "packed_few", "choice", "_few_elements"):  # another machine may choose otherwise
            del state[name]
        return {**state, "canonical": self._canonical()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        tensors = state.pop("canonical")
        super().__setstate__(state)
        self.packed, self.packed_few, self.choice, self._few_elements = _empty_bytes(0), None, Choice(), 0
        if not tensors["weight"].is_meta:
            self._pack(tensors["weight"], tensors["weight_scale"], tensors.get("bias"))

    # ---------------------------------------------------------------------------------------- nn.Module

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        # .half() and .to(dtype) mean floats and leave the packed bytes alone; .share_memory() works on them in place.
        device = fn(self.packed).device
        if self.packed_few is not None:
            fn(self.packed_few)
        if device.type != "cpu":
            raise RuntimeError(f"Int8Linear runs on the CPU, not on {device}; dense_(model) makes it nn.Linear again")
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """Sizes and, when there is one, the activation."""
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias_dtype is not None}"
        return text if self.activation == "none" else f"{text}, activation={self.activation!r}"


def _empty_bytes(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device="cpu")  # also where another device is the default


def _dequantize(q: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return q.float().mul_(scale).to(dtype)
