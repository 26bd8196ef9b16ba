"""edgekern as a quantisation method of Hugging Face transformers, after its own ways of loading and saving.

Importing this module registers the method ``"edgekern"``; transformers looks for no plug-ins by itself. Before a saved
model is loaded it must have been imported: without it, transformers warns of an unknown method and reads integers as if
they were weights. Nothing from a checkpoint is imported or executed.

A model is filled layer by layer: the float weights of a linear layer are read, converted and let go before the next
one's are, so the peak is what the converted model takes, and a layer.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, TextStreamer
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from edgekern.checkpoint.compressed import METHOD as COMPRESSED_TENSORS
from edgekern.config import Config, PerLayer, check_config, config_from_dict
from edgekern.convert import dense_
from edgekern.evaluate.language_model import LanguageModel
from edgekern.fuse import fuse_blocks_
from edgekern.loading import Arrivals, MappedFiles, StoredLayers, records_from_data, records_of, records_to_data
from edgekern.loading.stored import Record
from edgekern.plan import ConvertError

METHOD = "edgekern"
_LOADED = "_is_hf_initialized"
"""What transformers notes on each tensor that came from a checkpoint."""
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""For all that reads a folder: nothing is fetched, and no code in it is run."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


@register_quantization_config(METHOD)
class EdgekernConfig(QuantizationConfigMixin):
    """What ``from_pretrained(..., quantization_config=...)`` takes, and what ``config.json`` holds of a saved model.

    Args:
        config: a scheme, ``PerLayer``, or either as the mapping that ``to_dict`` made of it.
        layers: in ``config.json``: the layers that were converted; empty for a model that is to be converted.
        quant_method: in ``config.json``: ``"edgekern"``.

    Raises:
        TypeError: no such configuration, or one that is not for ``convert_``.
        ValueError: a mapping of an unknown format, or with options that it does not have.
    """

    def __init__(
        self, config: Config | Mapping[str, Any], layers: Sequence[Mapping[str, Any]] = (), quant_method: str = METHOD
    ) -> None:
        if quant_method != METHOD:
            raise ValueError(f"EdgekernConfig: quant_method must be {METHOD!r}, got {quant_method!r}")
        self.quant_method = METHOD
        self.config = check_config(config_from_dict(_with_rules(config)) if isinstance(config, Mapping) else config)
        self.layers: dict[str, Record] = records_from_data(layers)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The inverse of ``to_dict``; raises as the class does, and ValueError for keys that are not its own."""
        known = {"config", "layers", "quant_method"}
        if "config" not in config_dict or config_dict.keys() - known:
            raise ValueError(
                f"quantization_config: method {METHOD!r} takes {', '.join(sorted(known))}, and needs config; "
                f"got {', '.join(sorted(config_dict))}"
            )
        config = cls(**config_dict)
        return (config, kwargs) if return_unused_kwargs else config

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data. Rules are a list: transformers sorts the keys of mappings, and their order has a meaning."""
        config = self.config.to_dict()
        if isinstance(self.config, PerLayer):
            config["rules"] = [[name, rule] for name, rule in config["rules"].items()]
        return {"quant_method": METHOD, "config": config, "layers": records_to_data(self.layers)}


def _with_rules(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rules as a mapping again."""
    rules = config.get("rules")
    if not isinstance(rules, list):
        return config
    if not all(isinstance(rule, Sequence) and len(rule) == 2 and isinstance(rule[0], str) for rule in rules):
        raise ValueError("quantization_config: rules must be a list of [name, scheme] pairs")
    return {**config, "rules": dict(rules)}


@register_quantizer(METHOD)
class EdgekernQuantizer(HfQuantizer):
    """How transformers loads, saves and undoes it; made by transformers."""

    requires_calibration = False
    quantization_config: EdgekernConfig

    def __init__(self, quantization_config: EdgekernConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._arrivals: Arrivals | None = None
        self._stored: StoredLayers | None = None
        self._files = MappedFiles(())
        self._error: Exception | None = None

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Raises ValueError for any device but the CPU."""
        devices = device_map.values() if isinstance(device_map, Mapping) else [device_map or "cpu"]
        for device in devices:
            if str(device) not in ("cpu", "auto"):
                raise ValueError(f"device_map: edgekern runs on the CPU, not on {device}; leave it out or give 'cpu'")

    def update_device_map(self, device_map: Any) -> Any:
        """``"auto"`` means the CPU, whatever else there is."""
        return None if device_map is None else {"": "cpu"}

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        self._files = MappedFiles(checkpoint_files or ())
        tied: dict[str, str] = model.all_tied_weights_keys
        if not self.pre_quantized:
            self._arrivals = Arrivals(model, self.quantization_config.config, tied)
            return
        self._stored = self._stored_layers(model)
        for name in self._stored.names:
            tied.pop(f"{name}.weight", None)  # converted, it is a tensor of its own

    def _stored_layers(self, model: nn.Module) -> StoredLayers:
        """What fills the native layers of a model that was saved with some."""
        return StoredLayers(model, self.quantization_config.layers)

    def param_needs_quantization(self, model: nn.Module, param_name: str, **kwargs: Any) -> bool:
        """Whether a parameter belongs to a layer that is to be converted."""
        return self._arrivals is not None and param_name in self._arrivals

    def get_quantize_ops(self) -> ConversionOps:
        """What transformers hands such a parameter's values to."""
        return _Take(self)

    def take(self, model: nn.Module, name: str, tensor: Tensor) -> None:
        """Converts the parameter's layer if it is the last of it.

        Errors are raised when loading ends: here, transformers would put one of its own in their place.
        """
        if self._error is not None or self._arrivals is None:
            return
        try:
            self._arrivals.take(name, tensor)
        except ValueError as error:
            self._error = error
        for parameter in model.get_submodule(name.rpartition(".")[0]).parameters():
            vars(parameter)[_LOADED] = True  # a layer left float: transformers would make its values up otherwise
        self._files.have_read(tensor.nbytes)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        if self._error is not None:
            raise self._error
        if self._arrivals is not None or self._stored is not None:
            _check_complete(model)
        if self._arrivals is not None:
            self._arrivals.finish()
        if self._stored is not None:
            self._stored.pack(self._files.have_read)
        self._arrivals = self._stored = None
        self._files.let_go()
        for name in records_of(model):
            model.all_tied_weights_keys.pop(f"{name}.weight", None)
        fuse_blocks_(model)
        return model

    def get_state_dict_and_metadata(self, model: nn.Module) -> tuple[None, dict[str, str]]:
        """Notes which layers are native before the configuration is saved; the tensors are the state dict's."""
        self.quantization_config.layers = records_of(model)
        return None, {}

    def is_serializable(self) -> bool:
        """Saved models load without the float weights."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Converted layers have no backward."""
        return False

    def _dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        dense_(model)
        return model


def adopt_(model: PreTrainedModel, config: Config) -> None:
    """Lets ``save_pretrained`` save a model that ``convert_`` has converted, as one that was loaded converted.

    For models that are pruned first, or read from GGUF. Without this, the integers would be saved as plain weights.

    Args:
        model: with native layers.
        config: what it was converted with, for people to read: what was converted is seen from the model.

    Raises:
        ConvertError: no layer of the model is native.
    """
    if not records_of(model):
        raise ConvertError("adopt_: no layer of the model is converted; call convert_ first")
    quantizer = EdgekernQuantizer(EdgekernConfig(config), pre_quantized=False)
    model.hf_quantizer = quantizer
    model.is_quantized, model.quantization_method = True, METHOD
    quantizer.postprocess_model(model)
    fuse_blocks_(model)


class _Take(ConversionOps):
    """Takes parameters away from transformers, which then has nothing to put into the model."""

    def __init__(self, quantizer: EdgekernQuantizer) -> None:
        self._quantizer = quantizer

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str] | None = None,
        target_patterns: list[str] | None = None,
        *,
        model: nn.Module,
        missing_keys: set[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Each of ``input_dict`` is one tensor, or a list of one."""
        for name in list(input_dict):
            value = input_dict.pop(name)
            self._quantizer.take(model, name, value[0] if isinstance(value, list) else value)
            (missing_keys or set()).discard(name)
        return {}


def _check_complete(model: Any) -> None:
    """Raises ConvertError when the checkpoint lacked a tensor: transformers then warns, and makes values up."""
    made = {id(module._buffers[name]) for module in model.modules() for name in module._non_persistent_buffers_set}
    tensors = [*model.named_parameters(), *(item for item in model.named_buffers() if id(item[1]) not in made)]
    expendable = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    absent = [name for name, tensor in tensors if not getattr(tensor, _LOADED, False)]
    absent = [name for name in absent if not any(pattern.search(name) for pattern in expendable)]
    if absent:
        shown = ", ".join(map(repr, absent[:5])) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise ConvertError(f"the checkpoint has no values for {shown}; it is incomplete, or of another model")


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Inside, transformers shows its progress or does not; outside, as before."""
    before = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        yield
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()


def load_model(folder: str | os.PathLike[str], config: Config | None = None, dtype: str = "auto") -> PreTrainedModel:
    """A causal language model from a local folder, in eval mode.

    Args:
        folder: of a float model, or of one that was saved converted, by edgekern or as compressed-tensors does.
        config: what to convert a float model to while it is read.
        dtype: of what is not converted, ``"auto"`` for the stored one.

    Raises:
        OSError: no model that transformers knows in ``folder``.
        ValueError: what is there cannot be converted, or is incomplete.
    """
    if config is None and stored_method(folder) == COMPRESSED_TENSORS:
        from edgekern.integrations.compressed_tensors import load_compressed  # it builds on this module

        return load_compressed(folder, dtype)
    given = {} if config is None else {"quantization_config": EdgekernConfig(config)}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **LOCAL, **given).eval()


def load_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """The tokenizer in a local folder, or None where there is none."""
    if not any(Path(folder, name).exists() for name in _TOKENIZER_FILES):
        return None
    return AutoTokenizer.from_pretrained(folder, **LOCAL)


def load_language_model(folder: str | os.PathLike[str]) -> LanguageModel:
    """A causal language model from a local folder, in eval mode, as it was saved, with its tokenizer.

    Raises:
        OSError: no model that transformers knows in ``folder``, or no tokenizer.
        ValueError: what is there is incomplete.
    """
    tokenizer = load_tokenizer(folder)
    if tokenizer is None:
        raise FileNotFoundError(f"{folder} holds no tokenizer; text needs one, as tokenizer.json")
    return LanguageModel(load_model(folder), tokenizer)


def is_converted(folder: str | os.PathLike[str]) -> bool:
    """Whether the model in ``folder`` was saved converted, by edgekern or anybody else."""
    return stored_method(folder) is not None


def stored_method(folder: str | os.PathLike[str]) -> str | None:
    """The quantisation method that the model in ``folder`` was saved with; None for floats."""
    config = AutoConfig.from_pretrained(folder, **LOCAL)
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return None
    return str(stored.get("quant_method")) if isinstance(stored, Mapping) else type(stored).__name__


@dataclass(frozen=True)
class Speed:
    """What writing took: reading the prompt gives the first token, each step after it one more."""

    prompt_tokens: int
    prompt_seconds: float
    tokens: int
    seconds: float
    """For all tokens but the first."""

    @property
    def prompt_rate(self) -> float:
        """Tokens of the prompt a second."""
        return self.prompt_tokens / self.prompt_seconds

    @property
    def rate(self) -> float:
        """Tokens written a second."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 else 0.0


class _Streamer(TextStreamer):
    """Hands text on as it comes, and notes when each token did."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        """The prompt first, then one token at a time."""
        self.times.append(time.perf_counter())
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Text that no later token changes."""
        self._write(text)


def generate(loaded: LanguageModel, ids: Tensor, most: int, write: Callable[[str], None]) -> Speed:
    """What the model writes after a prompt: at each step the likeliest token.

    Args:
        loaded: model and tokenizer.
        ids: of the prompt, int64 [count].
        most: tokens to write; fewer when the model ends earlier.
        write: called with each piece of text as it comes.
    """
    streamer = _Streamer(loaded.tokenizer, write)
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    with torch.inference_mode():
        cast(Any, loaded.model).generate(
            ids[None], attention_mask=torch.ones_like(ids)[None], max_new_tokens=most, streamer=streamer, **greedy
        )
    start, first, *_ = streamer.times
    return Speed(len(ids), first - start, len(streamer.times) - 1, streamer.times[-1] - first)
