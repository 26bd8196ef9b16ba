"""A folder that ``save_pretrained`` of transformers wrote, as what is compressed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from torch import nn

from edgekern.checkpoint.write import sha256_of
from edgekern.compress.data import digest, digest_of_model
from edgekern.compress.errors import CompressError
from edgekern.config import Config, Stage
from edgekern.integrations.folders import CAUSAL, kind_of_folder, load_floats, longest_of, misfit, save_folder
from edgekern.integrations.transformers import load_tokenizer


class Folder:
    """A causal language model or an encoder on disk; what is written is another such folder.

    Args:
        folder: local; nothing is fetched, and no code in it is run.
        dtype: what weights are read as: ``"float32"`` for training, ``"auto"`` for the stored one.

    Raises:
        CompressError: it has no tokenizer.
        OSError: no model that transformers knows in ``folder``.
        ValueError: a model of another kind, or one that is converted already.
    """

    def __init__(self, folder: str | os.PathLike[str], dtype: str = "auto") -> None:
        self._folder, self._dtype = Path(folder), dtype
        # As it was given, but for "." and "..", which name nothing.
        self.name = str(folder) if self._folder.name not in ("", "..") else os.path.abspath(folder)
        self.kind, self.longest = kind_of_folder(folder), longest_of(folder)
        self.tokenizer: Any = load_tokenizer(folder)
        if self.tokenizer is None:
            raise CompressError(f"MODEL: {folder} holds no tokenizer; text needs one, as tokenizer.json")

    @property
    def is_causal(self) -> bool:
        """Whether it is a language model."""
        return self.kind == CAUSAL

    def fresh(self) -> nn.Module:
        return cast(nn.Module, load_floats(self._folder, self.kind, self._dtype))

    def digest(self) -> str:
        return digest([digest_of_model(self.fresh()), sha256_of(self._folder / "config.json")])

    def check(self, model: nn.Module, stage: Stage) -> None:
        if wrong := misfit(cast(Any, model)):
            raise CompressError(
                f"stage {stage.name!r}: its student cannot be written as {self.name} is: {wrong}. Take another width, "
                "after which hidden_size is a multiple of the number of heads, and of a BERT all heads are left, or "
                "layers alone; edgekern.compress(), from Python, takes any student"
            )

    def write(self, model: nn.Module, config: Config | None, folder: Path) -> None:
        save_folder(cast(Any, model), self.tokenizer, config, folder)
