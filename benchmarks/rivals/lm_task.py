"""What all language models are asked to do, whoever runs them. Needs NumPy alone: llama.cpp has nothing else."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from harness.subject import Subject
from numpy.typing import NDArray

# The environment says where the files are: tasks are written into results, which name no machine's folders.
FOLDER_VARIABLE = "EDGEKERN_BENCH_FOLDER"
# In that folder: the tokens of the prompt, int32 [length], and what float32 says of its last one, [vocabulary].
PROMPT, LOGITS = "prompt.npy", "logits.npy"
# Distance of the logits from float32's, in proportion, beyond which a model is wired up wrongly: those of two different
# prompts are about 1 apart. What fewer bits cost is reported, not judged.
LARGEST_ERROR = 0.6

Logits = NDArray[np.float32]


class LanguageModelSubject(Subject):
    """One way to run the model. Subclasses load it, and read tokens behind those that were read before."""

    packages: ClassVar[tuple[str, ...]] = ()
    checked: ClassVar[bool] = True
    """Whether what it says is held to float32."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Gets the model ready; called once."""

    @abstractmethod
    def forget(self) -> None:
        """Drops what was read."""

    @abstractmethod
    def read(self, tokens: NDArray[np.int32]) -> Logits:
        """Reads tokens in one call; what it says of the last one: [vocabulary]."""

    def prepare(self, **task: Any) -> dict[str, Any]:
        """Task: what it does, "read" or "write", and of how many tokens.

        Raises:
            ArithmeticError: what it says of the prompt is far from what float32 does.
        """
        folder = Path(os.environ[FOLDER_VARIABLE])
        if not self.calls:
            self.load(folder)
        prompt, exact = np.load(folder / PROMPT), np.load(folder / LOGITS)
        self.forget()
        error = float(np.linalg.norm(self.read(prompt) - exact) / np.linalg.norm(exact))
        if self.checked and not error <= LARGEST_ERROR:
            raise ArithmeticError(f"the logits are off by {error:.1%} (allowed {LARGEST_ERROR:.0%})")
        kinds: dict[str, Callable[[NDArray[np.int32]], None]] = {"read": self._read, "write": self._write}
        self.calls = [partial(kinds[task["does"]], prompt[: task["tokens"]])]
        return {"relative_error": error} if self.checked else {}

    def _read(self, prompt: NDArray[np.int32]) -> None:
        self.forget()
        self.read(prompt)

    def _write(self, prompt: NDArray[np.int32]) -> None:
        """As many tokens as the prompt has, one by one from its first: each the likeliest."""
        self.forget()
        token = prompt[:1]
        for _ in range(len(prompt)):
            token = self.read(token).argmax(keepdims=True).astype(np.int32)
