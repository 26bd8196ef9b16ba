"""Saving converted models of transformers layer by layer."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from edgekern.checkpoint import CheckpointUnsupportedError
from edgekern.checkpoint.stream import write_tensors
from edgekern.integrations.transformers import EdgekernConfig
from edgekern.loading import records_of
from edgekern.nn import NativeConv2d, NativeEmbedding, NativeLinear
from edgekern.nn.layers import find_layers, tensor_identity

MOST_BYTES = 5_000_000_000  # of a file
Parts = Callable[[NativeLinear], Mapping[str, Tensor]]


def save_converted(model: PreTrainedModel, folder: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> None:
    """Saves a converted model as ``save_pretrained`` does, but layer by layer.

    ``save_pretrained`` has all tensors in memory at once, beside the packed ones that layers run on. This has those
    of one layer, unless transformers rearranges the model's tensors when it saves them, as it does those of mixtures of
    experts: ``save_pretrained`` is called then.

    Args:
        model: that was loaded converted, or adopted.
        folder: to write into; made where it does not exist.
        most_bytes: of one file.

    Raises:
        CheckpointUnsupportedError: the model was not loaded converted.
    """
    settings = getattr(model.config, "quantization_config", None)
    if not isinstance(settings, EdgekernConfig):
        raise CheckpointUnsupportedError("the model was not loaded converted; call adopt_ first")
    if _rearranged(model):
        model.save_pretrained(folder, max_shard_size=most_bytes)
        return
    said = EdgekernConfig(settings.config)
    said.layers = records_of(model)
    like = _tensors(
        model, lambda native: native.canonical_like(), untied=False
    )  # to unpack them twice would take seconds
    write_model(model, Path(folder), said.to_dict(), lambda native: native.state_dict(), most_bytes, like=like)


def write_model(
    model: PreTrainedModel,
    folder: Path,
    settings: dict[str, Any],
    parts: Parts,
    most_bytes: int,
    *,
    untied: bool = False,
    like: Iterable[tuple[str, Tensor]] | None = None,
) -> None:
    """Writes a model's configurations, and its tensors layer by layer.

    Args:
        model: a converted one.
        folder: to write into; made where it does not exist.
        settings: ``quantization_config``.
        parts: what is stored of a native layer, by the last part of the names.
        most_bytes: of one file.
        untied: whether to say that a converted head is no longer the embedding, to readers who would tie it again;
            tables and convolutions are then stored as floats.
        like: all that will be stored, where its shapes and dtypes are known without unpacking a layer.

    Raises:
        CheckpointUnsupportedError: transformers rearranges the model's tensors when it saves them.
    """
    if _rearranged(model):
        raise CheckpointUnsupportedError(
            f"transformers rearranges the tensors of {type(model).__name__} when it saves them, and this does not; "
            "save_pretrained saves it in edgekern's layout"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.config)
    config.quantization_config = settings
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    if untied and isinstance(model.get_output_embeddings(), NativeLinear):
        config.tie_word_embeddings = False
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    announced = {name: tensor.to("meta") for name, tensor in like or _tensors(model, parts, untied)}
    write_tensors(folder, announced, _tensors(model, parts, untied), most_bytes)


def _rearranged(model: PreTrainedModel) -> bool:
    """Whether files have other tensors than the model, which transformers notes when it loads one."""
    return bool(getattr(model, "_weight_conversions", None))


def _tensors(model: PreTrainedModel, parts: Parts, untied: bool) -> Iterator[tuple[str, Tensor]]:
    """All that is stored, module by module; of a tensor with several names only under that which others are tied to."""
    natives = {layer.name: native for layer in find_layers(model) if (native := layer.native_linear)}
    ignored = {*(model._keys_to_ignore_on_save or ()), *model.all_tied_weights_keys}
    seen: set[object] = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if path in natives:
            yield from ((prefix + part, tensor) for part, tensor in parts(natives[path]).items())
            continue
        if untied and isinstance(module, NativeEmbedding | NativeConv2d):
            yield f"{prefix}weight", module.weight
            if isinstance(module, NativeConv2d) and module.bias is not None:
                yield f"{prefix}bias", module.bias
            continue
        stored: dict[str, Tensor] = {}
        module._save_to_state_dict(stored, prefix, keep_vars=False)
        for name, tensor in stored.items():
            # New tensors may lie where one was that has been let go; those that a module holds stay what they are.
            held = name.removeprefix(prefix) in {**module._parameters, **module._buffers}
            identity = tensor_identity(tensor) if held else name
            if name not in ignored and identity not in seen:
                seen.add(identity)
                yield name, tensor
