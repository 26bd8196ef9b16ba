"""The entry point of the `edgekern` command.

It stands outside the package so that what goes wrong while edgekern itself is imported, such as an EDGEKERN_ISA that
this CPU cannot run, is reported in one line like every other mistake.
"""

from __future__ import annotations

import sys

_NEEDED_FOR = {"torch": "'torch>=2.9'"} | dict.fromkeys(("transformers", "scipy", "matplotlib"), "'edgekern[demo]'")


def main() -> None:
    """Runs the command line; what a user can put right is reported in one line, with exit code 2."""
    try:
        from edgekern.cli.app import app

        app()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        if "--traceback" in sys.argv:
            raise
        message = _explain(error)
        print(message if message.startswith("edgekern") else f"edgekern: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def _explain(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in _NEEDED_FOR:
        return f"this command needs {error.name}, which is not installed: pip install {_NEEDED_FOR[error.name]}"
    return str(error)
