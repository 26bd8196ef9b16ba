"""A teacher's largest logits on disk, so that it runs once and not in every epoch.

A folder of safetensors files, each with the rows of some samples in order: ``logits`` float16 [rows, ..., k] and
``indices`` int32 likewise; and ``logits.json``, written last, which says how many there are. Rows are mapped into
memory, and only those that are asked for are read.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgekern.calibration.observe import arguments, check_data, inference
from edgekern.calibration.progress import progress_bar
from edgekern.checkpoint.atomic import written_whole
from edgekern.config.checks import check_count
from edgekern.distill.errors import DistillError
from edgekern.distill.outputs import logits_of
from edgekern.plan import check_model

_INDEX, _FORMAT = "logits.json", "edgekern-logits"


def cache_logits(
    teacher: nn.Module,
    batches: Iterable[Any],
    directory: str | os.PathLike[str],
    top_k: int = 64,
    *,
    rows_per_file: int = 4096,
    progress: bool = True,
) -> CachedLogits:
    """Runs ``teacher`` over all samples once and keeps the ``top_k`` largest logits of each, and of each token.

    Args:
        teacher: called as ``prune_`` calls a model, in eval mode and without autograd.
        batches: inputs without labels, in the order by which samples are numbered. Sequences are all of one
            length.
        directory: made when missing.
        top_k: how many; all where the model has fewer classes.
        rows_per_file: samples of a file.
        progress: shows a progress bar.

    Raises:
        TypeError: an argument of another type.
        ValueError: a number below 1.
        DistillError: the folder holds such files already, a model without logits, or no batches at all.
    """
    check_model(teacher, "run", DistillError)
    check_data(batches)
    check_count("top_k", top_k, 1, "cache_logits")
    check_count("rows_per_file", rows_per_file, 1, "cache_logits")
    folder = Path(directory)
    if (folder / _INDEX).exists():
        raise DistillError(f"directory: {folder} holds cached logits already; CachedLogits({str(folder)!r}) reads them")
    folder.mkdir(parents=True, exist_ok=True)
    files: list[dict[str, Any]] = []
    waiting: list[tuple[Tensor, Tensor]] = []

    def write(count: int) -> None:
        values, indices = (torch.cat(parts) for parts in zip(*waiting, strict=True))
        name = f"logits-{len(files):05}.safetensors"
        with written_whole(folder / name) as part:
            save_file({"logits": values[:count].clone(), "indices": indices[:count].clone()}, part)
        files.append({"name": name, "rows": min(count, len(values))})
        waiting[:] = [(values[count:], indices[count:])] if len(values) > count else []

    classes = 0
    total = len(batches) if isinstance(batches, Sized) else None
    with inference(teacher), progress_bar("Teaching", total, progress) as advance:
        for batch in batches:
            args, kwargs = arguments(batch)
            logits = logits_of(teacher(*args, **kwargs), "teacher")
            classes = logits.shape[-1]
            values, indices = logits.float().topk(min(top_k, classes), -1)
            waiting.append((values.half(), indices.int()))
            while sum(len(each) for each, _ in waiting) >= rows_per_file:
                write(rows_per_file)
            advance("")
    if waiting:
        write(rows_per_file)
    if not files:
        raise DistillError("batches: there are none")
    with written_whole(folder / _INDEX) as part:
        part.write_text(json.dumps({"format": _FORMAT, "version": 1, "classes": classes, "files": files}, indent=1))
    return CachedLogits(folder)


class CachedLogits:
    """Logits that :func:`cache_logits` has written, in place of the teacher.

    Args:
        directory: where they are.

    Raises:
        DistillError: no such folder, or it was not written to the end.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._folder = Path(directory)
        path = self._folder / _INDEX
        if not path.is_file():
            raise DistillError(
                f"directory: {self._folder} has no {_INDEX}; cache_logits(teacher, batches, ...) writes it"
            )
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            files = [(str(file["name"]), int(file["rows"])) for file in index["files"]]
            self.classes = int(index["classes"])
            """V, of the teacher."""
            sound = index["format"] == _FORMAT and index["version"] == 1
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            raise DistillError(f"directory: {path} does not describe cached logits that this version reads")
        self._names = [name for name, _ in files]
        if odd := [name for name in self._names if Path(name).name != name]:
            raise DistillError(f"directory: {path} names a file outside of its folder: {odd[0]!r}")
        self._starts = [0]
        for _, rows in files:
            self._starts.append(self._starts[-1] + rows)
        self._open: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def rows(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float16 and classes int32, both [samples, ..., k], of samples by number, int64 [samples].

        Raises:
            DistillError: a number that there is not, or a file that is damaged.
        """
        found = numbers.tolist()
        if not found or min(found) < 0 or max(found) >= len(self):
            raise DistillError(f"index: expected numbers of samples, 0 to {len(self) - 1}; got {found[:8]}")
        pairs = []
        for number in found:
            file = bisect_right(self._starts, number) - 1
            values, indices = self._tensors(file)
            pairs.append((values[number - self._starts[file]], indices[number - self._starts[file]]))
        return torch.stack([values for values, _ in pairs]), torch.stack([indices for _, indices in pairs])

    def _tensors(self, file: int) -> tuple[Tensor, Tensor]:
        if file not in self._open:
            path = self._folder / self._names[file]
            try:
                with safe_open(path, "pt") as tensors:
                    found = tensors.get_tensor("logits"), tensors.get_tensor("indices")
            except Exception as error:  # safetensors has an exception of its own, which is no ValueError
                raise DistillError(f"directory: {path} cannot be read: {error}") from None
            if len(found[0]) != self._starts[file + 1] - self._starts[file]:
                raise DistillError(f"directory: {path} holds {len(found[0])} rows, not those that {_INDEX} says")
            self._open[file] = found
        return self._open[file]
