"""``run.json``: a run's record as a file. Data only: what is read is checked against ``record.py``, key by key."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from edgekern.checkpoint.atomic import written_whole
from edgekern.compress.record import FILE, FORMAT, RunRecord, StageRecord


class RecordError(ValueError):
    """A ``run.json`` that cannot be read; the message names the file and the key."""


def write_record(folder: Path, record: RunRecord) -> None:
    """Writes ``folder/run.json``, whole or not at all.

    Raises:
        ValueError: a number that is not finite, which JSON cannot say.
        OSError: writing fails; the file that was there is as it was.
    """
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(record)}, indent=1, allow_nan=False)
    with written_whole(folder / FILE) as part:
        part.write_text(f"{text}\n", encoding="utf-8")


def read_record(folder: Path) -> RunRecord:
    """The inverse of ``write_record``.

    Raises:
        FileNotFoundError: there is no ``run.json`` in ``folder``.
        RecordError: it is not such a file, one of another version, or one that names files outside of ``folder``.
        OSError: it cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {FILE}; expected the folder that a run of compress wrote to")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict) or "format" not in data:
        raise RecordError(f'{path} has no "format": it is not the record of a run')
    version = data.pop("format")
    if version != FORMAT or isinstance(version, bool):
        raise RecordError(f"{path} has the format {version!r}, this edgekern reads {FORMAT}; use the one that wrote it")
    try:
        record: RunRecord = _read(data, RunRecord, "the file")
        _check_stages(record.stages)
    except _Wrong as wrong:
        raise RecordError(f"{path}: {wrong}") from None
    return record


class _Wrong(Exception):
    """What is wrong where."""


def _read(value: Any, expected: Any, where: str) -> Any:
    """A JSON value as what an annotation of ``record.py`` says."""
    if expected is Any:
        return value
    if dataclasses.is_dataclass(expected):
        return _read_fields(value, typing.cast(type, expected), where)
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if origin is types.UnionType:  # X | None
        return None if value is None else _read(value, inner[0], where)
    if origin is tuple:
        items = _of_type(value, list, where, "a list")
        return tuple(_read(item, inner[0], f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        entries = _of_type(value, dict, where, "an object")
        return {_key(key, inner[0], where): _read(item, inner[1], f"{where}.{key}") for key, item in entries.items()}
    said = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}[expected]
    found = _number(value, where, said) if expected is float else _of_type(value, expected, where, said)
    if expected in (int, float) and found < 0 and not where.endswith(".quality"):
        raise _Wrong(f"{where}: expected 0 or more, got {_shown(found)}")
    return found


def _read_fields(value: Any, of: type, where: str) -> Any:
    entries = _of_type(value, dict, where, "an object")
    hints = typing.get_type_hints(of)
    fields = dataclasses.fields(of)
    if unknown := sorted(entries.keys() - {field.name for field in fields}):
        raise _Wrong(
            f"{where} has an unknown key {unknown[0]!r}; known are {', '.join(field.name for field in fields)}"
        )
    needed = [
        field.name
        for field in fields
        if field.default is field.default_factory is dataclasses.MISSING  # no default
    ]
    if missing := [name for name in needed if name not in entries]:
        raise _Wrong(f"{where} has no {missing[0]!r}")
    inside = "" if where == "the file" else f"{where}."
    return of(**{name: _read(item, hints[name], f"{inside}{name}") for name, item in entries.items()})


def _of_type(value: Any, expected: type, where: str, said: str) -> Any:
    if type(value) is not expected:  # and not isinstance: true is no number
        raise _Wrong(f"{where}: expected {said}, got {_shown(value)}")
    return value


def _number(value: Any, where: str, said: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _Wrong(f"{where}: expected {said}, got {_shown(value)}")
    return float(value)


def _key(key: str, expected: type, where: str) -> Any:
    """A key of an object, which in JSON is text: of ``milliseconds`` it is a number of threads."""
    if expected is not int:
        return key
    if not (key.isascii() and key.isdigit() and int(key) > 0):
        raise _Wrong(f"{where}: expected numbers of threads as keys, got {_shown(key)}")
    return int(key)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check_stages(stages: tuple[StageRecord, ...]) -> None:
    names: set[str] = set()
    for i, stage in enumerate(stages):
        if stage.name in names:
            raise _Wrong(f"stages[{i}].name: {stage.name!r} is the name of an earlier stage too")
        names.add(stage.name)
        for path in (*stage.outputs, *([] if stage.metrics is None else [stage.metrics])):
            if not _is_inside(path):
                raise _Wrong(f"stages[{i}]: expected paths inside of the folder, got {_shown(path)}")


def _is_inside(path: str) -> bool:
    """Whether it leads nowhere else, on any system that the folder may be read on."""
    return bool(path) and not any(
        kind(path).is_absolute() or kind(path).drive or ".." in kind(path).parts
        for kind in (PurePosixPath, PureWindowsPath)
    )
