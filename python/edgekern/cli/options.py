"""What several commands have in common."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

Threads = Annotated[int | None, typer.Option(min=1, help="Threads to compute with; torch's own default otherwise.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a Hugging Face model.")]


class Dtype(str, Enum):
    """What activations are stored as."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Demo(str, Enum):
    """What is demonstrated."""

    minilm = "minilm"
    efficientnet = "efficientnet"


class Format(str, Enum):
    """How results are printed."""

    table = "table"
    markdown = "markdown"
    json = "json"


class Output(str, Enum):
    """How results are printed that no document has a place for."""

    table = "table"
    json = "json"


def use_threads(count: int | None) -> None:
    """Sets torch's number of threads, or the kernels' own without torch."""
    if count is not None:
        from .._lib import set_num_threads

        set_num_threads(count)


def check_packages(what: str, packages: Sequence[str], extra: str) -> None:
    """That optional packages are there, before any of them is imported; ``what`` begins the sentence if not.

    Raises:
        ImportError: some are not; the message says how to install them.
    """
    if missing := [package for package in packages if find_spec(package) is None]:
        raise ImportError(f"{what} {' and '.join(missing)}; run: pip install 'edgekern[{extra}]'")


def check_language_model(folder: Path) -> None:
    """That the packages for language models are there, and a model is; before any of it is imported.

    Raises:
        ImportError: the extra [lm] is not installed.
        FileNotFoundError: no such folder, or none of a model.
    """
    check_packages("language models need", ("transformers", "scipy", "tomli_w"), "lm")
    if not folder.is_dir():
        raise FileNotFoundError(f"MODEL: {folder} is not a folder")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"MODEL: {folder} holds no config.json; expected what save_pretrained writes")
