"""What is compressed: a model in memory, or a function that builds one. A folder is one too, see ``folder.py``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import nn

from edgekern.checkpoint import save
from edgekern.compress.data import digest_of_model
from edgekern.compress.errors import CompressError
from edgekern.config import Config, Stage
from edgekern.config.checks import kind_of


class Subject(Protocol):
    """A model that can be had again and again, as it was when the run began."""

    name: str
    """For people to read."""

    def fresh(self) -> nn.Module:
        """The model, in eval mode; the caller may change it."""

    def digest(self) -> str:
        """SHA-256 of all that tells it from others."""

    def check(self, model: nn.Module, stage: Stage) -> None:
        """CompressError unless what a stage makes of the model's structure is something that ``write`` can write."""

    def write(self, model: nn.Module, config: Config | None, folder: Path) -> None:
        """Writes the compressed model into a folder that is there and empty.

        Args:
            model: what the stages made of a fresh one.
            config: what it was converted by; None where it was not.
            folder: to write into.
        """


class InMemory:
    """A module, which stays as it is, or a function that builds one with the same weights each time.

    Raises:
        TypeError: neither.
    """

    def __init__(self, model: nn.Module | Callable[[], nn.Module]) -> None:
        if not isinstance(model, nn.Module) and (isinstance(model, type) or not callable(model)):
            raise TypeError(
                f"model: expected a torch.nn.Module, or a function that builds one, got {kind_of(model)}; "
                "compress_subject(Folder(...)) of edgekern.compress.folder reads what save_pretrained wrote"
            )
        self._model = model
        self.name = type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", "model")

    def fresh(self) -> nn.Module:
        if isinstance(self._model, nn.Module):
            return copy.deepcopy(self._model).eval()
        made = self._model()
        if not isinstance(made, nn.Module):
            raise TypeError(f"model: the function gave {kind_of(made)}; expected a torch.nn.Module")
        return made.eval()

    def digest(self) -> str:
        found = digest_of_model(self.fresh())
        if not isinstance(self._model, nn.Module) and digest_of_model(self.fresh()) != found:
            raise CompressError(
                "model: the function builds a model with other weights at each call; seed it, or load weights in it"
            )
        return found

    def check(self, model: nn.Module, stage: Stage) -> None:
        """Any model can be saved."""

    def write(self, model: nn.Module, config: Config | None, folder: Path) -> None:
        save(model, folder, overwrite=True)
