"""Runs of compression, made up, for tests of what is written about them."""

from __future__ import annotations

import json
from dataclasses import replace

from edgekern.compress.record import LayerRecord, Measured, RunRecord, StageRecord
from edgekern.compress.record_file import write_record

NO_SENSOR = "no energy was measured: /sys/class/powercap holds no readable counter"


def layers(scale=1.0, error=None, count=15):
    return tuple(
        LayerRecord(
            f"encoder.layer.{i}.attention.output.dense",
            "int8" if error else "float32",
            589_824,
            int(2_359_296 * scale) + 1000 * i,
            0.4 * scale + 0.01 * i,
            error and error * (i + 1),
        )
        for i in range(count)
    )


def measured(quality=0.91, scale=1.0, **others):
    given = {
        "metric": "accuracy",
        "higher_is_better": True,
        "quality": quality,
        "bytes_on_disk": int(90_000_000 * scale),
        "bytes_in_memory": int(95_000_000 * scale),
        "milliseconds": {1: 40.0 * scale, 2: 25.0 * scale},
        "joules": None,
        "joules_reason": NO_SENSOR,
        "layers": layers(scale, None if scale == 1 else 0.001),
    }
    return Measured(**{**given, **others})


def stage(name, kind="evaluate", **others):
    return StageRecord(name, kind, **{"seconds": 12.5, "inputs": "ab" * 32, "outputs": {}, **others})


def run(*stages, **others):
    machine = {"cpu": "Some CPU", "isa": "avx2", "features": ["avx2", "fma"], "versions": {"torch": "2.13.0"}}
    given = {"model": "minilm", "recipe": "prune and round", "machine": machine, "complete": True}
    return RunRecord(**{**given, "stages": tuple(stages), **others})


def full_run():
    """Every kind of stage, and three models."""
    return run(
        stage("dense", measured=measured()),
        stage(
            "pruned",
            "prune",
            seconds=30.0,
            outputs={"pruned/model.safetensors": "cd" * 32},
            notes=("lm_head: left alone",),
        ),
        stage("tuned", "fine_tune", seconds=4000.0, metrics="tuned/log.jsonl"),
        stage("sparse", measured=measured(0.905, 0.6)),
        stage("int8", "convert"),
        stage("last", measured=measured(0.9, 0.25)),
    )


def write_log(path, steps=50, **parts):
    """A training's log, as train/log.py writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(1, steps + 1):
        entry = {"step": step, "epoch": 0, "loss": 1 / step, **{name: value / step for name, value in parts.items()}}
        lines.append({**entry, "gradient_norm": 1.0, "lr": 1e-3 * (1 - step / steps)})
        if step % 10 == 0:
            lines.append({"step": step, "epoch": 0, "evaluation": {"accuracy": 0.8 + step / 1000}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(folder, record=None):
    """A folder as a run leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    record = full_run() if record is None else record
    for each in record.stages:
        if each.metrics:
            write_log(folder / each.metrics, logits=0.5)
    write_record(folder, record)
    return folder


def with_energy(each, **joules):
    """A measurement with joules at so many threads, given as t1=0.5."""
    return replace(each, joules={int(key[1:]): value for key, value in joules.items()}, joules_reason=None)
