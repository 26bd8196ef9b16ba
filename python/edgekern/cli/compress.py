"""`edgekern compress`: a recipe's stages on a Hugging Face model, with data out of text files or packages."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from ..compress import CompressData, compress_subject
from ..compress.folder import Folder
from ..compress.texts import encoder_data, language_model_data
from ..config import FineTuneStage, Recipe
from ..evaluate import film_sentences, load_wordsim353, news_texts
from .texts import prose, text_of


def run(folder: Path, output: Path, recipe: Recipe, data: Path | None, held_out: Path | None, restart: bool) -> None:
    """Carries a recipe out, or goes on with it, and prints the first and the last evaluation side by side.

    Args:
        folder: of the model.
        output: folder of the run.
        recipe: what to do.
        data: text to calibrate and train with; out of packages otherwise.
        held_out: text to evaluate on; for a language model the beginning of the other, for an encoder WordSim-353.
        restart: whether to remove what a run has written, and to begin anew.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a model, recipe or text that cannot be used, or a stage that cannot be carried out; a folder that
            holds something else, or a run that was begun with something else.
        MissingDataError: no text was given, and a package with one is not installed.
    """
    subject = Folder(folder, "float32" if recipe.trains else "auto")
    read = _windows if subject.is_causal else _lines
    console = Console(stderr=True)
    done = compress_subject(
        subject,
        recipe,
        output,
        read(subject, recipe, data, held_out),
        restart=restart,
        progress=sys.stderr.isatty(),
        say=lambda line: console.print(line, markup=False, highlight=False),
    )
    Console().print(done.comparison)


def _windows(subject: Folder, recipe: Recipe, data: Path | None, held_out: Path | None) -> CompressData:
    kept = None if held_out is None else text_of(held_out, "--eval")
    return language_model_data(subject.tokenizer, subject.longest, prose(data, "--data"), kept, recipe.text)


def _lines(subject: Folder, recipe: Recipe, data: Path | None, held_out: Path | None) -> CompressData:
    for stage in recipe.stages:
        if isinstance(stage, FineTuneStage):
            raise ValueError(
                f"recipe: stage {stage.name!r} trains by labels, which texts for an encoder have not; take a stage of "
                "kind 'distil', or edgekern.compress() from Python"
            )
    texts = [*film_sentences(), *news_texts()] if data is None else _not_empty(text_of(data, "--data"))
    kept = None if held_out is None else _not_empty(text_of(held_out, "--eval"))
    return encoder_data(subject.tokenizer, texts, kept, load_wordsim353() if kept is None else None, recipe.text)


def _not_empty(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]
