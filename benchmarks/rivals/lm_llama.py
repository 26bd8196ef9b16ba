"""The same model in llama.cpp, through the C interface that llama-cpp-python exposes.

Its own quantiser makes Q8_0 and Q4_0 of the floats::

    python -m rivals.lm_llama SOURCE.gguf FOLDER     run by benchmarks/language_model.py, in llama.cpp's environment

Run from benchmarks/, in a virtual environment that has requirements-llama.txt and not torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from rivals.lm_task import LanguageModelSubject, Logits

CONTEXT = 1024
KINDS = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}


def file_of(folder: Path, kind: str) -> Path:
    """Where a quantised model is kept."""
    return folder / f"model-{kind}.gguf"


class LlamaModel(LanguageModelSubject):
    """Weights of the kind that its argument names; 8-bit activations in blocks of 32."""

    packages: ClassVar[tuple[str, ...]] = ("llama-cpp-python",)

    def __init__(self, threads: int, kind: str) -> None:
        super().__init__(threads)
        self._kind = kind
        llama_cpp.llama_backend_init()

    def load(self, folder: Path) -> None:
        path = file_of(folder, self._kind)
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise OSError(f"llama.cpp does not load {path}")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = CONTEXT
        options.n_threads = options.n_threads_batch = self.threads
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        self._words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def read(self, tokens: NDArray[np.int32]) -> Logits:
        array = (llama_cpp.llama_token * len(tokens))(*tokens.tolist())
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))  # logits of the last one alone
        if status := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode ended with {status}")
        pointer = llama_cpp.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(pointer, (self._words,)).copy()


def quantise(source: Path, folder: Path) -> None:
    """Writes a file of each kind of a float GGUF file. Raises RuntimeError when llama.cpp does not."""
    for kind, code in KINDS.items():
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype = code
        target = file_of(folder, kind)
        if status := llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), options):
            raise RuntimeError(f"llama.cpp does not make {target} of {source}: {status}")


if __name__ == "__main__":
    quantise(Path(sys.argv[1]), Path(sys.argv[2]))
