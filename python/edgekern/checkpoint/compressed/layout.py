"""The bits: between compressed-tensors' tensors of a layer and our canonical ones.

Packed values go along K, 32 / bits to an int32 word, the first in the lowest bits, offset by half their range so that
they are not negative: int4 from 0 to 15, that is what a canonical int4 weight holds, in the same order. So four bytes
of ours are a word of theirs::

    weight_packed[n, 0] = k=7 k=6 k=5 k=4 k=3 k=2 k=1 k=0      4 bits each, the lowest to the right
    weight[n, 0:4]      =                         [k=1 k=0] [k=3 k=2] [k=5 k=4] [k=7 k=6]

Packed zero points go along N instead, in words [ceil(N / 8), groups]. A row that does not fill its last word ends in
zero bits. Words are little-endian, as is every machine that this package has kernels for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from edgekern import ops
from edgekern.checkpoint.compressed.config import layout_of
from edgekern.checkpoint.compressed.scheme import PLAIN, WAY_OUT, StoredAs
from edgekern.checkpoint.errors import CheckpointCorruptError, CheckpointUnsupportedError
from edgekern.config import STATIC, Int4
from edgekern.nn import NativeLinear

# Of a scale, or of the largest of its output channel where that is more: what rounding to float16 changes at most in
# its normal range. Beyond it scales are so small, or so unlike each other, that float16 does not hold them.
_TOLERANCE = 2.0**-11


@dataclass(frozen=True)
class Canonical:
    """Canonical tensors of a layer, and what they lost."""

    tensors: dict[str, Tensor]
    rounded: float
    """Largest change of a scale, relative to the largest of its output channel; 0 where none changed."""


def canonical(stored: StoredAs, parts: Mapping[str, Tensor], shape: tuple[int, int], name: str) -> Canonical:
    """What a native layer of ``stored.scheme`` loads, from the tensors of layer ``name`` as ``files.py`` checked them.

    Args:
        stored: how the weights are stored.
        parts: by the last part of their name, ``bias`` among them where there is one.
        shape: output and input features.
        name: of the layer, for errors.

    Raises:
        CheckpointCorruptError: values that cannot be.
        CheckpointUnsupportedError: columns in another order, or scales that float16 does not hold.
    """
    _check_shape(parts, shape, name)
    _check_order(parts, stored, shape[1], name)
    scale = parts["weight_scale"]
    if not scale.isfinite().all():
        raise CheckpointCorruptError(f"layer {name!r}: its weight_scale holds NaN or infinity")
    if stored.symmetric and "weight_zero_point" in parts and bool(parts["weight_zero_point"].any()):
        raise CheckpointCorruptError(f"layer {name!r} has zero points that are not 0, and is said to be symmetric")
    own = {"bias": parts["bias"]} if "bias" in parts else {}
    own |= _inputs(stored, parts, name) if stored.activations == STATIC else {}
    scale = _by_channel(scale, stored, shape)
    if not isinstance(stored.scheme, Int4):
        integers = _bytes(parts["weight_packed"], shape[1]) ^ 128 if stored.packed else parts["weight"]
        return Canonical({**own, "weight": integers.view(torch.int8), "weight_scale": scale.float()}, 0.0)
    repeats = _repeats(stored, shape[1])
    own["weight"] = _int4(stored, parts, shape[1], name)
    half, rounded = _float16(scale, name)
    own["weight_scale"] = _repeat(half, repeats)
    if not stored.symmetric:
        zero = _zero_points(parts["weight_zero_point"], shape[0], name)
        own["weight_zero"] = _repeat(_by_channel(zero, stored, shape), repeats)
    return Canonical(own, rounded)


def _inputs(stored: StoredAs, parts: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The range of the activations. Their integers reach from -128 to 127 there as in our files."""
    scale = parts["input_scale"].float().reshape(1)
    zero_point = parts.get("input_zero_point", torch.zeros(1, dtype=torch.int8, device="cpu")).reshape(1)
    if not (scale.isfinite() & (scale > 0)):
        raise CheckpointCorruptError(f"layer {name!r}: its input_scale must be above 0 and finite, got {float(scale)}")
    if stored.centred and zero_point.any():
        raise CheckpointCorruptError(f"layer {name!r} has an input_zero_point of {int(zero_point)}, and is symmetric")
    return {"input_scale": scale, "input_zero_point": zero_point}


def _check_shape(parts: Mapping[str, Tensor], shape: tuple[int, int], name: str) -> None:
    said = parts.get("weight_shape")
    if said is not None and tuple(said.tolist()) != shape:
        raise CheckpointCorruptError(f"layer {name!r}: its weight_shape says {said.tolist()}, expected {list(shape)}")


def _check_order(parts: Mapping[str, Tensor], stored: StoredAs, in_features: int, name: str) -> None:
    """Columns may say which group they are of, as activation-ordered ones did; ours are neighbours."""
    order = parts.get("weight_g_idx")
    if order is None or bool((order == -1).all()):  # -1: nobody ordered them
        return
    groups = torch.arange(in_features, device="cpu") // (stored.group_size or in_features)
    if not torch.equal(order.to(torch.int64), groups):
        raise CheckpointUnsupportedError(
            f"layer {name!r} has columns in the order of activations (weight_g_idx), whose groups are no neighbours; "
            f"{WAY_OUT}"
        )


def _by_channel(values: Tensor, stored: StoredAs, shape: tuple[int, int]) -> Tensor:
    """Scales or zero points [N, columns], those of a whole tensor for each output channel."""
    columns = stored.scale_columns(shape[1])
    return values.reshape(-1, columns).expand(shape[0], columns)


def _repeats(stored: StoredAs, in_features: int) -> int:
    """Groups of ours to one of theirs."""
    assert isinstance(stored.scheme, Int4)
    return -(-(stored.group_size or in_features) // stored.scheme.group_size)


def _repeat(values: Tensor, repeats: int) -> Tensor:
    return values.repeat_interleave(repeats, 1).contiguous()


def _bytes(words: Tensor, count: int) -> Tensor:
    """The first ``count`` bytes of each row of int32 words."""
    return words.contiguous().view(torch.uint8)[:, :count].contiguous()


def _words(rows: Tensor) -> Tensor:
    """Rows of bytes as int32 words, ended by zeros."""
    even = pad(rows, (0, -rows.shape[1] % 4))
    # Through one dimension: of a single row, the stride may be anything, and view looks at it.
    return even.reshape(-1).view(torch.int32).view(len(even), -1)


def _int4(stored: StoredAs, parts: Mapping[str, Tensor], in_features: int, name: str) -> Tensor:
    """Canonical weights: uint8 [N, ceil(K / 2)]."""
    if stored.packed:
        pairs = _bytes(parts["weight_packed"], -(-in_features // 2))
        if in_features % 2:
            pairs[:, -1] &= 15
        return pairs
    return ops.int4_pair(_from_int8(parts["weight"], "weight", name))


def _from_int8(values: Tensor, part: str, name: str) -> Tensor:
    """Values of 4 bits around zero, one an int8, as uint8 from 0 to 15."""
    low, high = torch.aminmax(values)
    if low < -8 or high > 7:
        raise CheckpointCorruptError(
            f"layer {name!r}: its {part} reaches from {int(low)} to {int(high)}, and 4 bits from -8 to 7"
        )
    return values.add(8).view(torch.uint8)


def _zero_points(stored: Tensor, out_features: int, name: str) -> Tensor:
    """Zero points as uint8 [N, groups], from packed ones or, as older versions wrote them, an int8 each."""
    if stored.dtype == torch.int8:
        return _from_int8(stored, "weight_zero_point", name)
    pairs = _bytes(stored.t(), -(-out_features // 2))
    return ops.int4_unpair(pairs, out_features).t().contiguous()


def _float16(scale: Tensor, name: str) -> tuple[Tensor, float]:
    """Scales as float16, and the largest change relative to the largest scale of an output channel."""
    exact = scale.float()
    half = exact.half()
    if torch.equal(half.float(), exact):  # all but the tiniest bfloat16 are float16 too
        return half, 0.0
    largest = exact.abs().amax(1, keepdim=True)
    changes = ((half.float() - exact).abs() / largest).nan_to_num(0.0, posinf=torch.inf)  # 0 / 0: a channel of zeros
    rounded = float(changes.max())
    if rounded > _TOLERANCE:
        worst = exact[changes.amax(1).argmax()]
        raise CheckpointUnsupportedError(
            f"layer {name!r} has an output channel with scales from {float(worst.abs().min()):.3g} to "
            f"{float(worst.abs().max()):.3g}; int4's float16 scales would change them by up to {rounded:.2g} of the "
            f"largest, and {_TOLERANCE:.2g} is tolerated; {WAY_OUT}"
        )
    return half, rounded


# ------------------------------------------------------------------------------------------------------------ writing


def parts_of(native: NativeLinear) -> dict[str, Tensor]:
    """Tensors of an int8 or int4 layer as compressed-tensors names, shapes and packs them, and its bias.

    Scales have the dtype of the layer where that holds them exactly, as it does in a float32 model or where they were
    read from such a checkpoint, and otherwise their own: no value changes.
    """
    tensors = native.state_dict()
    own = {"bias": tensors["bias"]} if "bias" in tensors else {}
    own["weight_scale"] = _as_the_layer(tensors["weight_scale"], native.dtype)
    if layout_of(native.scheme) == PLAIN:
        if native.activations == STATIC:
            own["input_scale"] = _as_the_layer(tensors["input_scale"], native.dtype)
            own["input_zero_point"] = tensors["input_zero_point"]
        return {**own, "weight": tensors["weight"]}
    int4 = isinstance(native.scheme, Int4)
    own["weight_packed"] = _words(tensors["weight"] if int4 else tensors["weight"].view(torch.uint8) ^ 128)
    own["weight_shape"] = torch.tensor([native.out_features, native.in_features], device="cpu")
    if isinstance(native.scheme, Int4) and not native.scheme.symmetric:
        own["weight_zero_point"] = _words(ops.int4_pair(tensors["weight_zero"].t())).t().contiguous()
    return own


def _as_the_layer(scale: Tensor, dtype: torch.dtype) -> Tensor:
    cast = scale.to(dtype)
    return cast if torch.equal(cast.float(), scale.float()) else scale
