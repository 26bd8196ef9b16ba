"""What of a model's outputs distillation looks at."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from edgekern.distill.errors import DistillError


def logits_of(output: object, whose: str) -> Tensor:
    """Scores of classes, [..., V]: the output itself, or what it has under "logits".

    Raises:
        DistillError: there are none.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif isinstance(output, tuple | list) and output:
        found = output[0]
    if not isinstance(found, Tensor) or found.ndim < 2:
        raise DistillError(
            f"{whose}: its output, {type(output).__name__}, has no logits; for an encoder without a head, "
            "Distiller(..., soft=0, hidden=Hidden(...))"
        )
    return found


def attentions_of(output: object, layer: int, whose: str) -> Tensor:
    """The attention map of a layer, [B, heads, T, T].

    Raises:
        DistillError: there is none.
    """
    maps = output.get("attentions") if isinstance(output, Mapping) else None
    if not isinstance(maps, tuple | list) or not -len(maps) <= layer < len(maps) or maps[layer] is None:
        count = 0 if not isinstance(maps, tuple | list) else len([each for each in maps if each is not None])
        raise DistillError(
            f"{whose}: no attention map of layer {layer}, of {count}; maps are given by Hugging Face models after "
            "model.set_attn_implementation('eager')"
        )
    return maps[layer]
