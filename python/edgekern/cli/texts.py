"""Texts that language models read: a file of the user's, or Wikipedia's prose."""

from __future__ import annotations

from pathlib import Path


def prose(file: Path | None) -> str:
    """What is in ``file``, or prose out of gensim when there is none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no UTF-8.
        MissingDataError: there is no file, and the package with the prose is not installed.
    """
    if file is None:
        from ..evaluate import wikipedia_prose

        return wikipedia_prose()
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"--text: {file} is not UTF-8 text: {error}") from None
