"""What an evaluate stage finds: quality, sizes, times, and the same of each layer."""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.bench import Joules, bench
from edgekern.calibration.observe import arguments, inference
from edgekern.checkpoint import save
from edgekern.checkpoint.manifest import Manifest
from edgekern.checkpoint.records import MANIFEST_FILE
from edgekern.compress.data import EVALUATION, CompressData
from edgekern.compress.errors import CompressError
from edgekern.compress.record import LayerRecord, Measured
from edgekern.compress.subject import Subject
from edgekern.config import EvaluateStage
from edgekern.fuse import fuse_blocks_
from edgekern.nn import NativeEmbedding, NativeLayer
from edgekern.nn.layers import Layer, find_layers
from edgekern.sensitivity.quality import METRICS, main_tensor, usual_metric

_CALLS = 3
"""Of the model, to time its layers; the first is not counted."""
_COMPARED = 1 << 18
"""Values of a layer's output that are compared: enough to tell an error to a percent, and little memory."""


def measure(
    model: nn.Module, stage: EvaluateStage, data: CompressData, subject: Subject, folder: Path, same_layers: bool
) -> Measured:
    """Measures a model.

    Args:
        model: as it is at this stage; layers that share an input are afterwards computed together.
        stage: what to measure.
        data: of the run.
        subject: gives the model that the run began with.
        folder: for files that are gone again afterwards.
        same_layers: whether the layers are those that the run began with, to compare what they give.

    Raises:
        CompressError: a quality that is no finite number.
    """
    batch = data.first(EVALUATION)
    score = Quality(data, subject)
    with inference(model):
        found = float(score(model))
    if not math.isfinite(found):
        raise CompressError(f"stage {stage.name!r}: {score.metric} is {found}; expected a finite number")
    on_disk, stored = _on_disk(model, folder)
    layers = _layers(model, stage, subject, batch, stored, same_layers) if stage.layers else ()
    fuse_blocks_(model)  # as loading does
    milliseconds, joules, reason = _costs(model, stage, batch)
    return Measured(
        metric=score.metric,
        higher_is_better=score.higher_is_better,
        quality=found,
        bytes_on_disk=on_disk,
        bytes_in_memory=_in_memory(model),
        milliseconds=milliseconds,
        joules=joules,
        joules_reason=reason,
        layers=layers,
    )


# ---------------------------------------------------------------------------------------------- quality


class Quality:
    """What a model is worth: by the user's function, or by how far its outputs are from the first model's.

    Those are computed when first asked for, and then kept.
    """

    def __init__(self, data: CompressData, subject: Subject) -> None:
        self._data, self._subject = data, subject
        self._wanted: list[Tensor] = []
        self._by_name = ""
        self.higher_is_better = data.higher_is_better if data.evaluate is not None else False

    @property
    def metric(self) -> str:
        """What it is; known after a call where it is a distance."""
        if self._data.evaluate is not None:
            return self._data.metric
        return {"kl": "KL divergence", "mse": "squared error"}[self._by_name]

    def __call__(self, model: nn.Module) -> float:
        if self._data.evaluate is not None:
            return float(self._data.evaluate(model))
        batches = self._data.part(EVALUATION)
        if not self._wanted:
            original = self._subject.fresh()
            self._by_name = usual_metric(original, batches)
            self._wanted = list(_outputs(original, batches))
        return METRICS[self._by_name](zip(self._wanted, _outputs(model, batches), strict=True))


def _outputs(model: nn.Module, batches: Iterable[Any]) -> Iterator[Tensor]:
    with inference(model):
        for batch in batches:
            args, kwargs = arguments(batch)
            yield main_tensor(model(*args, **kwargs)).float()


# ---------------------------------------------------------------------------------------------- sizes


def _on_disk(model: nn.Module, folder: Path) -> tuple[int, Manifest]:
    """Bytes of the checkpoint, and what it says of its tensors."""
    made = folder / "weighed"
    shutil.rmtree(made, ignore_errors=True)
    try:
        save(model, made)
        size = sum(file.stat().st_size for file in made.iterdir())
        return size, Manifest.from_json((made / MANIFEST_FILE).read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _in_memory(model: nn.Module) -> int:
    """Bytes of parameters, buffers and packed weights."""
    plain = {id(tensor): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    packed = {id(m): m.packed_bytes for m in model.modules() if isinstance(m, NativeLayer | NativeEmbedding)}
    return sum(plain.values()) + sum(packed.values())


def _bytes_by_layer(stored: Manifest) -> Mapping[str, int]:
    found: dict[str, int] = defaultdict(int)
    for name, tensor in stored.tensors.items():
        size = getattr(torch, tensor.dtype).itemsize
        found[name.rpartition(".")[0]] += math.prod(tensor.shape) * size
    return found


# ---------------------------------------------------------------------------------------------- times


def _costs(
    model: nn.Module, stage: EvaluateStage, batch: Any
) -> tuple[dict[int, float], dict[int, float] | None, str | None]:
    """Milliseconds and joules of a call by number of threads, or why there are no joules."""
    joules, before = Joules(), torch.get_num_threads()
    args, kwargs = arguments(batch)
    milliseconds: dict[int, float] = {}
    spent: dict[int, float] = {}
    try:
        for threads in stage.threads or (before,):
            torch.set_num_threads(threads)
            inputs = kwargs or args
            result = bench(model, inputs, warmup_seconds=min(0.5, stage.seconds / 4), max_seconds=stage.seconds)
            milliseconds[threads] = result.p50
            with inference(model), torch.inference_mode():
                taken = joules.of_call(lambda: model(*args, **kwargs))
            if taken is not None:
                spent[threads] = taken
    finally:
        torch.set_num_threads(before)
    complete = len(spent) == len(milliseconds)
    return milliseconds, spent if complete else None, None if complete else joules.why_none


# ---------------------------------------------------------------------------------------------- layers


def _layers(
    model: nn.Module, stage: EvaluateStage, subject: Subject, batch: Any, stored: Manifest, same_layers: bool
) -> tuple[LayerRecord, ...]:
    layers = {layer.name: layer for layer in find_layers(model, tables=True)}
    times = _layer_times(model, layers, batch)
    errors = _layer_errors(model, layers, subject, batch) if same_layers else {}
    sizes = _bytes_by_layer(stored)
    return tuple(
        LayerRecord(
            name=name,
            form=_form(layer),
            parameters=math.prod(layer.shape),
            bytes=sizes.get(name, 0),
            milliseconds=times.get(name),
            error=errors.get(name),
        )
        for name, layer in layers.items()
    )


def _form(layer: Layer) -> str:
    if isinstance(layer.native, NativeLayer):
        form = layer.native.choice.form
        return layer.native.format if form == "dense" else f"{layer.native.format} {form}"
    if layer.native is not None:
        return layer.native.format
    weight = getattr(layer.module, "weight", None)
    return str(weight.dtype).removeprefix("torch.") if isinstance(weight, Tensor) else "unknown"


def _layer_times(model: nn.Module, layers: Mapping[str, Layer], batch: Any) -> dict[str, float]:
    """Milliseconds in each layer of one call of the model, the median of some; of those that it calls."""
    started: dict[nn.Module, float] = {}
    spent: dict[str, float] = {}
    names = {layer.module: name for name, layer in layers.items()}

    def begins(module: nn.Module, args: Any) -> None:
        started[module] = time.perf_counter()

    def ends(module: nn.Module, args: Any, output: Any) -> None:
        name = names[module]
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - started[module]

    calls = []
    hooks = [(each.register_forward_pre_hook(begins), each.register_forward_hook(ends)) for each in names]
    try:
        for _ in range(_CALLS + 1):
            spent.clear()
            _call(model, batch)
            calls.append(dict(spent))
    finally:
        for hook in (hook for pair in hooks for hook in pair):
            hook.remove()
    return {name: 1000 * statistics.median(call[name] for call in calls[1:]) for name in calls[-1]}


def _layer_errors(model: nn.Module, layers: Mapping[str, Layer], subject: Subject, batch: Any) -> dict[str, float]:
    """Relative error of what each layer gives in a call of the model, against what it gave when the run began."""
    original = subject.fresh()
    wanted = _given(original, {layer.module: layer.name for layer in find_layers(original, tables=True)}, batch)
    found = _given(model, {layer.module: name for name, layer in layers.items()}, batch)
    errors = {}
    for name, value in found.items():
        if name in wanted and wanted[name].shape == value.shape and (size := float(wanted[name].norm())) > 0:
            errors[name] = float((value - wanted[name]).norm()) / size
    return {name: error for name, error in errors.items() if math.isfinite(error)}


def _given(model: nn.Module, names: Mapping[nn.Module, str], batch: Any) -> dict[str, Tensor]:
    """Of each layer some of what it gives last, float32 [values]."""
    found: dict[str, Tensor] = {}

    def ends(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found[names[module]] = output.detach().flatten()[:_COMPARED].float().clone()

    with _hooked(names, ends):
        _call(model, batch)
    return found


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _call(model: nn.Module, batch: Any) -> None:
    args, kwargs = arguments(batch)
    with inference(model), torch.inference_mode():
        model(*args, **kwargs)
