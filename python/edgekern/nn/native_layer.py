"""What layers on native kernels have in common, whatever they compute and whatever their weights are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from edgekern import ops
from edgekern.config import Scheme
from edgekern.kernels import Range
from edgekern.nn.forms import Choice

if TYPE_CHECKING:
    from typing_extensions import Self


class NativeLayer(nn.Module, ABC):
    """A layer with weights on native kernels, for inference on the CPU. Under autograd the call raises: no backward.

    The weights live in a packed buffer laid out for this machine's kernels (``packed``, neither a parameter nor a
    buffer). What leaves the process is canonical and the same on every machine: state dicts, pickles and copies hold
    plain tensors, and packing is chosen anew where they arrive. A new layer is empty, as on the meta device, until
    ``load_state_dict``.

    Args:
        bias: whether there is a bias.
        activation: applied before the result is stored: a key of :data:`edgekern.ops.ACTIVATIONS`.
        dtype: what ``weight`` and ``dense()`` give back: torch.float32, bfloat16 or float16.
        bias_dtype: dtype of the bias outside the packed buffer; ``dtype`` when not given.
        scheme: how weights are packed; the scheme's defaults when not given.

    Raises:
        TypeError: a scheme for another kind of layer.
        ValueError: an unknown activation or another dtype.
    """

    DTYPES: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16, torch.float16)
    format: ClassVar[str]
    scheme_class: ClassVar[type[Scheme]]
    float_name: ClassVar[str]
    """What the layer is in a model of floats, for messages."""
    exact: ClassVar[tuple[str, ...]] = ()
    """Canonical tensors that mean nothing in another dtype. Other floats are cast on loading, as torch does."""
    _chosen_here: ClassVar[tuple[str, ...]] = ("packed", "choice")
    """Attributes that pickles leave out: another machine may choose otherwise."""

    packed: Tensor
    choice: Choice
    input_range: Range | None = None
    """The scale and the zero point, from 0 to 255, that all inputs are rounded by, where that is known beforehand."""

    def __init__(
        self, bias: bool, activation: str, dtype: torch.dtype, bias_dtype: torch.dtype | None, scheme: Scheme | None
    ) -> None:
        super().__init__()
        if activation not in ops.ACTIVATIONS:
            raise ValueError(f"activation: expected one of {', '.join(ops.ACTIVATIONS)}; got {activation!r}")
        for argument, value in (("dtype", dtype), ("bias_dtype", bias_dtype or dtype)):
            if value not in self.DTYPES:
                raise ValueError(f"{argument}: expected torch.float32, bfloat16 or float16; got {value}")
        scheme = self.scheme_class() if scheme is None else scheme
        if not isinstance(scheme, self.scheme_class):
            raise TypeError(f"{type(self).__name__}: scheme must be a {self.scheme_class.__name__}, got {scheme!r}")
        self.activation = activation
        self.dtype = dtype
        self.bias_dtype = (bias_dtype or dtype) if bias else None
        self.scheme = scheme
        self._activation_code = ops.ACTIVATIONS[activation]
        self._empty()

    # ------------------------------------------------------------------------------ what a kind of layer provides

    @property
    def activations(self) -> str:
        """How its inputs are rounded, as :class:`edgekern.Int8` has it; empty where weights are floats too."""
        return ""

    @classmethod
    @abstractmethod
    def weight_bytes(cls, in_features: int, out_features: int, dtype: torch.dtype) -> int:
        """Bytes of the weights of a layer from which none is left out, as a matrix of so many columns and rows."""

    @property
    @abstractmethod
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of ``weight``; the bias is as long as its first dimension."""

    @abstractmethod
    def reserve(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, str]:
        """Memory for what :meth:`take_` will make of these, and why floats do better with them, when they do.

        Raises:
            ValueError: the scheme names a form that cannot hold these weights.
        """

    @abstractmethod
    def take_(self, weight: Tensor, bias: Tensor | None, packed: Tensor | None = None) -> None:
        """Takes finite dense weights of :attr:`weight_shape` and packs a copy, into what ``reserve`` gave.

        Without that it raises as ``reserve`` does; with it, it cannot fail.
        """

    @property
    @abstractmethod
    def kernels(self) -> tuple[str, ...]:
        """The kernels that may run it."""

    @abstractmethod
    def dense(self) -> nn.Module:
        """The same layer of floats, with the same weights, in ``dtype``."""

    @abstractmethod
    def _weight_like(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shapes and dtypes of the canonical tensors but the bias."""

    @abstractmethod
    def _unpack(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """Canonical tensors but the bias, and the bias as float32; new ones at every call."""

    @abstractmethod
    def _float_weight(self, tensors: dict[str, Tensor]) -> Tensor:
        """The weight in ``dtype``."""

    @abstractmethod
    def _pack(self, tensors: dict[str, Tensor]) -> None:
        """Takes a copy of canonical tensors; raises ValueError for values that cannot be."""

    def _empty(self) -> None:
        """Makes the layer one without weights, by setting all of :attr:`_chosen_here`."""
        self.choice = Choice()
        self.packed = empty_bytes(0)

    def _memory(self) -> list[Tensor]:
        """All that holds weights, as bytes."""
        return [self.packed]

    # ------------------------------------------------------------------------------------- as floats

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed weights in memory."""
        return sum(part.nbytes for part in self._memory())

    @property
    def weight(self) -> Tensor:
        """The weights as ``dtype``: a new tensor of :attr:`weight_shape` at every access."""
        return self._float_weight(self._canonical())

    @property
    def bias(self) -> Tensor | None:
        """A new tensor at every access, or None."""
        return None if self.bias_dtype is None else self._canonical()["bias"]

    def _fill(self, module: nn.Module) -> None:
        """Gives a module of floats these weights, and what else outlives a conversion."""
        tensors = self._canonical()
        module.weight = nn.Parameter(self._float_weight(tensors))
        if "bias" in tensors:
            module.bias = nn.Parameter(tensors["bias"])
        module.train(self.training)

    # -------------------------------------------------------------------------- canonical tensors in and out

    def canonical_like(self) -> dict[str, Tensor]:
        """Names, shapes and dtypes of the canonical tensors, as tensors on the meta device."""
        shapes = self._weight_like()
        if self.bias_dtype is not None:
            shapes["bias"] = (self.weight_shape[:1], self.bias_dtype)
        return {name: torch.empty(shape, dtype=dtype, device="meta") for name, (shape, dtype) in shapes.items()}

    def _canonical(self) -> dict[str, Tensor]:
        if not self.packed.numel():
            return self.canonical_like()
        tensors, bias = self._unpack()
        if bias is not None and self.bias_dtype is not None:
            tensors["bias"] = bias.to(self.bias_dtype)
        return tensors

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
            without = f"without {', '.join(absent)} none was"
            error_msgs.append(f"{prefix}*: {self.format} tensors are loaded together; {without}")
        elif given:
            self._load(given, prefix, error_msgs)

    def _load(self, tensors: dict[str, Tensor], prefix: str, error_msgs: list[str]) -> None:
        like = self.canonical_like()
        for name, tensor in tensors.items():
            if tensor.dtype != like[name].dtype and (name in self.exact or not tensor.is_floating_point()):
                floats = "float weights load into the dense model, before convert_"
                hint = floats if tensor.is_floating_point() else "integers load into the kind of layer that saved them"
                got = f"expected {like[name].dtype}, got {tensor.dtype}"
                error_msgs.append(f"dtype mismatch for {prefix}{name}: {got}; {hint}")
                return
        try:
            self._pack({name: tensor.to(like[name].dtype) for name, tensor in tensors.items()})
        except (ValueError, RuntimeError) as error:
            error_msgs.append(f"While packing {prefix}weight: {error}")

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in super().__getstate__().items() if name not in self._chosen_here}
        return {**state, "canonical": self._canonical()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        tensors = state.pop("canonical")
        super().__setstate__(state)
        self._empty()
        if not tensors["weight"].is_meta:
            self._pack(tensors)

    # ---------------------------------------------------------------------------------------- nn.Module

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # .half() and .to(dtype) leave the packed bytes alone; .share_memory() works on them in place.
        for device in {fn(part).device for part in self._memory()}:
            if device.type != "cpu":
                raise RuntimeError(
                    f"{type(self).__name__} runs on the CPU, not on {device}; "
                    f"dense_(model) makes it {self.float_name} again"
                )
        return super()._apply(fn, recurse)


def empty_bytes(size: int) -> Tensor:
    """Uninitialised, 1-D, on the CPU, also where another device is the default."""
    return torch.empty(size, dtype=torch.uint8, device="cpu")
