"""Checkpoints of compressed-tensors in transformers: read to run on native kernels, and written for others to read.

The package itself is not needed, and nothing from a checkpoint is imported or executed. transformers' own reader of
such a checkpoint makes floats of it; :func:`load_compressed` keeps the integers.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.quantizers import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from edgekern.checkpoint import CheckpointMismatchError
from edgekern.checkpoint.compressed import CompressedConfig, StoredTensor, parts_of, stored_tensors
from edgekern.config import DYNAMIC, FLOAT, Config, PerLayer, Scheme
from edgekern.config.checks import check_choice
from edgekern.integrations.saving import MOST_BYTES, write_model
from edgekern.integrations.transformers import LOCAL, EdgekernQuantizer, adopt_
from edgekern.loading import CompressedLayers, StoredLayers, compressed_settings, records_of

_READER = "edgekern-compressed-tensors"


class ScalesRoundedWarning(UserWarning):
    """Scales of a checkpoint were rounded to float16."""


def load_compressed(
    folder: str | os.PathLike[str],
    dtype: Any = "auto",
    model_class: Any = AutoModelForCausalLM,
    activations: str | None = None,
) -> PreTrainedModel:
    """A model of compressed-tensors, its integers on native kernels, in eval mode.

    Read are ``pack-quantized`` and ``int-quantized``: int4 by groups of a multiple of 32, by output channel or tensor,
    symmetric or not, and symmetric int8 by output channel or tensor; activations floats, or 8 bits found while it
    runs, which here are found by row, or by a static range, one a layer, which stays what it is. Integers and zero
    points stay what they are. Scales of int8 become float32, those of int4 float16, which holds all but the tiniest
    bfloat16 ones; where it rounds, a warning says by how much, and beyond 2^-11 of an output channel's largest scale
    nothing is read. ``save_pretrained`` saves the model in edgekern's own layout, :func:`save_compressed` in theirs.

    Args:
        folder: on this machine, with ``config.json`` and safetensors files.
        dtype: of what is not converted, ``"auto"`` for the stored one.
        model_class: what has ``from_pretrained``.
        activations: ``"float"`` or ``"dynamic"`` for all layers, in place of what the checkpoint says of each.
            ``"dynamic"`` takes less time for many rows (tokens), as of a prompt, and rounds what W4A16 and W8A16 do
            not.

    Raises:
        ValueError: other activations.
        OSError: no model that transformers knows in ``folder``.
        CheckpointError: one of its subclasses says what is wrong: files that are missing, no safetensors files, or
            changed; a configuration that is none; layers that are not the model's, or that no kernel here multiplies.
        ConvertError: tensors are missing.
    """
    if activations is not None:
        check_choice("activations", activations, (DYNAMIC, FLOAT), "load_compressed")
    config = AutoConfig.from_pretrained(folder, **LOCAL)
    stored = CompressedConfig.from_dict(getattr(config, "quantization_config", None))
    if activations is not None:
        stored = stored.with_activations(activations)
    reader = _Reader(stored, stored_tensors(folder))
    del config.quantization_config  # or transformers would take its own way
    model, info = model_class.from_pretrained(
        folder,
        config=config,
        quantization_config=reader,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        **LOCAL,
    )
    if unknown := sorted(info["unexpected_keys"]):
        more = f" and {len(unknown) - 1} more" if unknown[1:] else ""
        raise CheckpointMismatchError(f"the checkpoint has {unknown[0]!r}{more}, which the model has no place for")
    _report_rounded(model.hf_quantizer.layers.rounded)
    adopt_(model, _config_of(model))
    return model.eval()


def save_compressed(model: PreTrainedModel, folder: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> None:
    """Saves a converted model as compressed-tensors writes them and vLLM reads them, layer by layer.

    Int8 layers become ``int-quantized`` with 8-bit activations, found while it runs or static as they are here; those
    whose activations stay floats, and int4 layers in any case, ``pack-quantized`` of weights alone. So it does not say
    which of the two an int4 layer's activations are, and :func:`load_compressed` takes them for floats. Converted
    tables and convolutions are stored as floats, which their readers have. No value changes; what is not converted is
    stored as it is. The package itself is not needed.

    Args:
        model: with ``Int8`` and ``Int4`` layers.
        folder: to write into; made where it does not exist.
        most_bytes: of one file.

    Raises:
        CheckpointUnsupportedError: no layer is converted, or one to what the format has no room for: pruned floats,
            or int4 whose last group is shorter than the others. Or transformers rearranges the model's tensors when
            it saves them. Nothing is written then.
    """
    write_model(model, Path(folder), compressed_settings(model), parts_of, most_bytes, untied=True)


def _report_rounded(rounded: Mapping[str, float]) -> None:
    if rounded:
        worst = max(rounded, key=lambda name: rounded[name])
        warnings.warn(
            f"scales of {len(rounded)} layers were rounded to float16, by up to {rounded[worst]:.2g} of the largest of "
            f"an output channel ({worst!r})",
            ScalesRoundedWarning,
            stacklevel=3,
        )


def _config_of(model: nn.Module) -> Config:
    """What people read in ``config.json``: the scheme of all converted layers, or of each."""
    schemes: dict[str, Scheme | None] = {name: record.scheme for name, record in records_of(model).items()}
    first = next(iter(schemes.values()))
    return first if first is not None and set(schemes.values()) == {first} else PerLayer(schemes)


@register_quantization_config(_READER)
class _Reader(QuantizationConfigMixin):
    """Has transformers take :class:`_Quantizer`, in the place of what ``config.json`` said; never in a file."""

    def __init__(self, config: CompressedConfig, tensors: Mapping[str, StoredTensor]) -> None:
        self.quant_method = _READER
        self.config, self.tensors = config, tensors

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Raises ValueError: it comes from :func:`load_compressed` alone."""
        raise ValueError(f"quantization_config: {_READER!r} is no method of files")

    def to_dict(self) -> dict[str, Any]:
        """Its method, for transformers' logs."""
        return {"quant_method": _READER}


@register_quantizer(_READER)
class _Quantizer(EdgekernQuantizer):
    """Reads integers as they are stored; made by transformers."""

    layers: CompressedLayers

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        super().__init__(quantization_config, **{**kwargs, "pre_quantized": True})

    def _stored_layers(self, model: nn.Module) -> StoredLayers:
        reader: Any = self.quantization_config
        self.layers = CompressedLayers(model, reader.config, reader.tensors)
        return self.layers
