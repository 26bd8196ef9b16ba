"""A language model in transformers: in floats, in edgekern's formats, and as torch quantises it."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from rivals.instant import make_instant
from rivals.lm_task import LanguageModelSubject, Logits


class TransformersModel(LanguageModelSubject):
    """As it is stored, in the dtype that its argument names."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers")

    def __init__(self, threads: int, kind: str) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        self._kind = kind
        self._cache: Any = None

    def session(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    def load(self, folder: Path) -> None:
        self._model = self.build(folder).eval()

    def build(self, folder: Path) -> Any:
        """The model that is timed."""
        return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, self._kind))

    def forget(self) -> None:
        self._cache = None

    def read(self, tokens: NDArray[np.int32]) -> Logits:
        ids = torch.from_numpy(tokens).long()[None]
        output = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = output.past_key_values
        return output.logits[0, -1].float().numpy()


class StubModel(TransformersModel):
    """Every linear layer instant, the head too: the floor under any linear layer in this model."""

    checked = False

    def build(self, folder: Path) -> Any:
        model = super().build(folder)
        make_instant(model)
        return model


class TorchDynamicModel(TransformersModel):
    """quantize_dynamic of float32, the head too, by the engine that its argument names."""

    def build(self, folder: Path) -> Any:
        torch.backends.quantized.engine = self._kind
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is announced to go, and still what torch has
            return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


class EdgekernModel(TransformersModel):
    """int8 or int4 layers, float32 around them; with "-head" the output head in int8, float32 otherwise.

    int4 by symmetric groups of 32: the 4.5 bits a weight of llama.cpp's Q4_0.
    """

    packages: ClassVar[tuple[str, ...]] = ("edgekern", "torch", "transformers")

    def build(self, folder: Path) -> Any:
        import edgekern as ek
        from edgekern.integrations.transformers import EdgekernConfig

        name, _, head = self._kind.partition("-")
        scheme = {"int8": ek.Int8(), "int4": ek.Int4(32, symmetric=True)}[name]
        config = ek.PerLayer({"lm_head": ek.Int8() if head else None, "_default": scheme})
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, quantization_config=EdgekernConfig(config)
        )

    def prepare(self, **task: Any) -> dict[str, Any]:
        """Also says which kernels run."""
        import edgekern as ek

        return {**super().prepare(**task), "isa": ek.kernels.default_isa()}
