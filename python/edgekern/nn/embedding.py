"""Embedding tables on native kernels: rows of a packed matrix, which a linear layer may share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from edgekern import ops
from edgekern.config import MEASURED, Int4, Int8, Scheme
from edgekern.kernels import default_isa
from edgekern.nn.forms import DENSE, Choice
from edgekern.nn.int4_linear import Int4Linear
from edgekern.nn.int8_linear import Int8Linear
from edgekern.nn.native_linear import NativeLinear

if TYPE_CHECKING:
    from typing_extensions import Self


class NativeEmbedding(nn.Module):
    """``nn.Embedding`` on native kernels, for inference on the CPU: rows of a packed matrix.

    Input: indices ``[...]`` int64 or int32, from 0 to ``num_embeddings - 1``; IndexError for others. Output:
    ``[..., embedding_dim]`` of ``dtype``, the values that the weights were rounded to.

    The rows are read out of the packed weights of a linear layer, ``table``. That is one of its own, which no model
    sees, or, where ``tied_to`` is given, a layer of the model: the output head of a model that ties both. Then there is
    one copy of the weights, and in a state dict they stand under the linear layer's name alone. Copies and pickles of
    the model keep that.

    Args:
        num_embeddings: N, rows of the table.
        embedding_dim: K, columns.
        padding_idx: kept for :meth:`dense`; it says which row is not trained.
        dtype: of the result, and of what ``weight`` and ``dense()`` give back: torch.float32, bfloat16 or float16.
        scheme: how weights are rounded; the scheme's defaults when not given. Rows are read from the dense form alone.
        tied_to: the linear layer whose weights are the table.

    Raises:
        TypeError: a scheme, or a layer to tie to, of another kind.
        ValueError: a size below 1 or too large, another dtype, a scheme that asks for another form than the dense one,
            or a layer to tie to of another shape or form.
    """

    format: ClassVar[str]
    scheme_class: ClassVar[type[Scheme]]
    table_class: ClassVar[type[NativeLinear]]
    _read: ClassVar[Callable[..., Tensor]]

    table: NativeLinear

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        scheme: Scheme | None = None,
        tied_to: NativeLinear | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if tied_to is None:
            scheme = without_inputs(in_rows(self.scheme_class() if scheme is None else scheme))
            tied_to = self.table_class(embedding_dim, num_embeddings, False, dtype=dtype, scheme=scheme)
            self.tied = False
        else:
            if not isinstance(tied_to, self.table_class):
                raise TypeError(f"{name}: tied_to must be an {self.table_class.__name__}, got {type(tied_to).__name__}")
            if (tied_to.out_features, tied_to.in_features) != (num_embeddings, embedding_dim):
                raise ValueError(
                    f"{name}: tied_to must have a weight of [{num_embeddings}, {embedding_dim}], "
                    f"got [{tied_to.out_features}, {tied_to.in_features}]"
                )
            if tied_to.scheme != in_rows(tied_to.scheme):
                raise ValueError(f"{name}: tied_to must have a scheme of the dense form, got {tied_to.scheme!r}")
            self.tied = True
        if dtype not in NativeLinear.DTYPES:
            raise ValueError(f"dtype: expected torch.float32, bfloat16 or float16; got {dtype}")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.dtype = dtype
        # Not as a submodule: what goes through a model's modules would find a layer that nobody calls.
        vars(self)["table"] = tied_to
        self._dtype_code = ops.FLOATS[str(dtype).removeprefix("torch.")]

    def forward(self, input: Tensor) -> Tensor:
        """``[...]`` to ``[..., embedding_dim]`` of ``dtype``."""
        return type(self)._read(input, self.table.packed, self.embedding_dim, self._dtype_code)

    # ------------------------------------------------------------------------------------- from and to floats

    @classmethod
    def like(cls, embedding: nn.Embedding, scheme: Scheme | None = None, tied_to: NativeLinear | None = None) -> Self:
        """An empty table, or one that reads from ``tied_to``, with the sizes and dtype of ``embedding``."""
        rows, columns = embedding.weight.shape
        padding_idx, dtype = embedding.padding_idx, embedding.weight.dtype
        return cls(rows, columns, padding_idx, dtype=dtype, scheme=scheme, tied_to=tied_to)

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding, scheme: Scheme | None = None) -> Self:
        """The native counterpart of one table, which stays as it is."""
        native = cls.like(embedding, scheme)
        native.take_(embedding.weight, None)
        return native

    def reserve(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, str]:
        """As :meth:`NativeLinear.reserve`; nothing where the weights are another layer's."""
        return (self.table.packed, "") if self.tied else self.table.reserve(weight, bias)

    def take_(self, weight: Tensor, bias: Tensor | None, packed: Tensor | None = None) -> None:
        """As :meth:`NativeLinear.take_`; nothing where the weights are another layer's, which takes them itself."""
        if not self.tied:
            self.table.take_(weight, bias, packed)

    def dense(self, weight: nn.Parameter | None = None) -> nn.Embedding:
        """An ``nn.Embedding`` with the same weights, in ``dtype``: ``weight`` itself where that is given."""
        dense = nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx, device="meta")
        dense.weight = nn.Parameter(self.weight) if weight is None else weight
        return dense.train(self.training)

    @property
    def weight(self) -> Tensor:
        """The weights as ``dtype``: a new ``[num_embeddings, embedding_dim]`` tensor at every access."""
        return self.table.weight.to(self.dtype)

    # ------------------------------------------------------------------------- what is the same as of a linear layer

    @property
    def in_features(self) -> int:
        """K of the packed matrix."""
        return self.embedding_dim

    @property
    def out_features(self) -> int:
        """N of the packed matrix."""
        return self.num_embeddings

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """``[num_embeddings, embedding_dim]``."""
        return (self.num_embeddings, self.embedding_dim)

    @property
    def bias_dtype(self) -> torch.dtype | None:
        """None: there is no bias."""
        return None

    @property
    def scheme(self) -> Scheme:
        """How the weights are rounded and packed."""
        return self.table.scheme

    @property
    def choice(self) -> Choice:
        """How the weights are packed."""
        return self.table.choice

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed weights in memory; 0 where they are another layer's."""
        return 0 if self.tied else self.table.packed_bytes

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernel that reads rows."""
        return (f"{self.format}_embedding_{default_isa()}",)

    @classmethod
    def weight_bytes(cls, in_features: int, out_features: int, dtype: torch.dtype) -> int:
        """Bytes of the weights of a table."""
        return cls.table_class.weight_bytes(in_features, out_features, dtype)

    def canonical_like(self) -> dict[str, Tensor]:
        """Names, shapes and dtypes of the canonical tensors, on the meta device; none where another layer has them."""
        return {} if self.tied else self.table.canonical_like()

    # ---------------------------------------------------------------------------------------- nn.Module

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.tied:
            self.table._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Where the weights are another layer's, torch itself finds that there is nothing to load.
        if self.tied:
            super()._load_from_state_dict(state_dict, prefix, *rest)
            return
        self.table._load_state_dict_pre_hooks = self._load_state_dict_pre_hooks
        self.table._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for device in {fn(part).device for part in self.table._memory()}:
            if device.type != "cpu":
                raise RuntimeError(
                    f"{type(self).__name__} runs on the CPU, not on {device}; dense_(model) makes it nn.Embedding again"
                )
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """Sizes, and what there is besides."""
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        text += "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{text}, tied=True" if self.tied else text


class Int8Embedding(NativeEmbedding):
    """``nn.Embedding`` on 8-bit weights, one scale a row; see :class:`NativeEmbedding` for arguments and use.

    A state dict holds what :class:`Int8Linear`'s does, without a bias.
    """

    format: ClassVar[str] = Int8.format
    scheme_class: ClassVar[type[Scheme]] = Int8
    table_class: ClassVar[type[NativeLinear]] = Int8Linear
    _read: ClassVar[Callable[..., Tensor]] = torch.ops.edgekern.int8_embedding.default


class Int4Embedding(NativeEmbedding):
    """``nn.Embedding`` on 4-bit weights by groups; see :class:`NativeEmbedding` for arguments and use.

    A state dict holds what :class:`Int4Linear`'s does, without a bias.
    """

    format: ClassVar[str] = Int4.format
    scheme_class: ClassVar[type[Scheme]] = Int4
    table_class: ClassVar[type[NativeLinear]] = Int4Linear
    _read: ClassVar[Callable[..., Tensor]] = torch.ops.edgekern.int4_embedding.default


def without_inputs(scheme: Scheme) -> Scheme:
    """The scheme for a table that nothing is multiplied by: there are no activations to round."""
    if isinstance(scheme, Int8):
        return Int8(scheme.form, scheme.rows, scheme.packings)
    if isinstance(scheme, Int4):
        return Int4(scheme.group_size, scheme.symmetric, scheme.form, scheme.rows, scheme.clip)
    return scheme


def in_rows(scheme: Scheme) -> Scheme:
    """The scheme with its weights packed in the dense form, from which alone rows are read, without measuring.

    Raises:
        ValueError: it names another form.
    """
    assert isinstance(scheme, Int8 | Int4)
    if scheme.form not in (MEASURED, DENSE):
        raise ValueError(f"rows of a table are read from the dense form alone, not {scheme.form!r}; leave form out")
    if isinstance(scheme, Int8):
        return dataclasses.replace(scheme, form=DENSE, packings=1)
    return dataclasses.replace(scheme, form=DENSE)
