"""What goes into a stage, and what is different when it is not the same as before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgekern._lib import core
from edgekern.checkpoint.atomic import written_whole
from edgekern.compress.errors import CompressError
from edgekern.config import Stage

FILE = "inputs.json"
_WHAT = {
    "code": "the code's version",
    "data": "the data",
    "model": "the model before it",
    "options": "its options",
}


def inputs_of(stage: Stage, model: str, data: Mapping[str, str]) -> dict[str, Any]:
    """All that decides about what a stage leaves behind.

    Args:
        stage: with its options.
        model: digest of the model before it.
        data: digests of what it uses of the data.
    """
    code = {"edgekern": core.version, "torch": torch.__version__}
    return {"code": code, "data": dict(data), "model": model, "options": stage.to_dict()}


def hash_of(inputs: Mapping[str, Any]) -> str:
    """SHA-256 of them, which is that of their file."""
    return hashlib.sha256(_text(inputs).encode()).hexdigest()


def begin(folder: Path, inputs: Mapping[str, Any], name: str) -> None:
    """Notes the inputs of a stage that begins, or is gone on with.

    Raises:
        CompressError: it was begun with others.
    """
    path = folder / FILE
    if path.exists():
        check_same(path, inputs, name, "was begun")
        return
    with written_whole(path) as part:
        part.write_text(_text(inputs), encoding="utf-8")


def check_same(path: Path, inputs: Mapping[str, Any], name: str, verb: str) -> None:
    """CompressError, which says what is different, unless these inputs are those in the file."""
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompressError(f"stage {name!r}: {path} cannot be read: {error}; {WAY_OUT}") from None
    if then != json.loads(_text(inputs)):
        said = "; ".join(_differences(then, json.loads(_text(inputs))))
        raise CompressError(f"stage {name!r} {verb} with something else: {said}. Put it back, or {WAY_OUT}")


WAY_OUT = "begin the run anew: --restart, or compress(..., restart=True), removes what it has written"


def _text(inputs: Mapping[str, Any]) -> str:
    return json.dumps(inputs, indent=1, sort_keys=True) + "\n"


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    said = []
    for key in sorted(then.keys() | now.keys()):
        before, after = then.get(key), now.get(key)
        if before == after:
            continue
        what = _WHAT.get(key, key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            apart = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
            if key == "data":
                said.append(f"{what} ({', '.join(apart)})")
            else:
                said += [f"{what}: {name} was {_shown(before, name)}, is {_shown(after, name)}" for name in apart]
        else:
            said.append(f"{what} is another")
    return said


def _shown(table: Mapping[str, Any], name: str) -> str:
    return json.dumps(table[name]) if name in table else "not given"
