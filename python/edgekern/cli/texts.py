"""Texts that language models read: a file of the user's, or Wikipedia's prose."""

from __future__ import annotations

from pathlib import Path


def prose(file: Path | None, option: str = "--text") -> str:
    """What is in ``file``, which ``option`` named, or prose out of gensim when there is none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no UTF-8.
        MissingDataError: there is no file, and the package with the prose is not installed.
    """
    if file is None:
        from ..evaluate import wikipedia_prose

        return wikipedia_prose()
    return text_of(file, option)


def text_of(file: Path, option: str) -> str:
    """What is in ``file``, which ``option`` named; raises as :func:`prose` does."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{option}: {file} is not UTF-8 text: {error}") from None
