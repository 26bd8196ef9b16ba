"""What the benchmarks of quantised models have in common: their cases, making them, and keeping what was measured."""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import nn

import edgekern as ek
from edgekern.config import STATIC, Calibrated, Config

RESULTS = Path(__file__).resolve().parent / "results"
FEW = 8
CLIPS = {"none": "", "mse": ", clipped", "hqq": ", HQQ"}
RANGES = {"minmax": "", "percentile": " by percentile", "mse": " by mse"}

Scheme = ek.Int8 | ek.Int4 | Calibrated


@dataclass(frozen=True)
class Case:
    """One row of a table."""

    format: str
    scheme: Scheme | None
    """None for the floats."""
    dense: bool = False
    """Whether it runs with the rounded weights as floats: what rounding the activations costs is the difference."""
    windows: int = FEW
    """Of a language model's text, to calibrate on."""
    spares_one: bool = False
    """Whether the layer stays float that loses most when it alone is rounded to the nearest."""

    @property
    def method(self) -> str:
        """How weights are rounded."""
        if self.scheme is None:
            return ""
        to = self.target
        words = _words(self.scheme) + (CLIPS[to.clip] if isinstance(to, ek.Int4) else "")
        words += ", bias corrected" * (isinstance(self.scheme, Calibrated) and self.scheme.corrects_bias)
        words += f", static ranges{RANGES[to.ranges]}" * (to.activations == STATIC)
        words += f", {self.windows} windows" * (self.windows != FEW)
        words += ", most sensitive layer in floats" * self.spares_one
        return words + ", float activations" * self.dense

    @property
    def target(self) -> ek.Int8 | ek.Int4:
        """What layers become."""
        assert self.scheme is not None
        return self.scheme.target if isinstance(self.scheme, Calibrated) else self.scheme


def _words(scheme: Scheme) -> str:
    if isinstance(scheme, ek.GPTQ):
        return "GPTQ" + ", columns in order" * (not scheme.act_order)
    if not isinstance(scheme, Calibrated):
        return "nearest"
    name = "AWQ" if isinstance(scheme, ek.AWQ) else f"SmoothQuant {scheme.alpha:g}"  # type: ignore[attr-defined]
    return f"{name}, GPTQ" if scheme.gptq else name


def int8() -> ek.Int8:
    """In the form that all others compute the same as: nothing is timed here."""
    return ek.Int8("dense")


def int4(group_size: int, clip: str = "none") -> ek.Int4:
    """Symmetric, and in such a form."""
    return ek.Int4(group_size, symmetric=True, form="dense", clip=clip)


def as_it_is(scheme: Scheme) -> Config:
    """One scheme for a whole model."""
    return scheme


def converted(
    case: Case, dense: nn.Module, data: Sequence[object], rules: Callable[[Scheme], Config] = as_it_is
) -> tuple[nn.Module, dict[str, Any]]:
    """The model as the case has it, and what there is to say about how it came to be.

    ``rules`` makes a configuration for the whole model of a case's scheme.
    """
    if case.scheme is None:
        return dense, {}
    model = copy.deepcopy(dense)
    if not isinstance(case.scheme, Calibrated):
        ek.convert_(model, rules(case.scheme), data=data, progress=False)
        if case.dense:
            ek.dense_(model)
        return model, {}
    start, cpu = time.perf_counter(), time.process_time()
    config = rules(case.scheme)
    if case.spares_one:
        given = config.rules if isinstance(config, ek.PerLayer) else {"_default": config}
        config = ek.PerLayer({**given, most_sensitive(dense, data, case.target): None})
    report = ek.quantize_(model, config, data)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    ek.convert_(model, report.config, data=data, progress=False)
    ratios = [row.error / row.nearest for row in report.quantized if row.nearest]
    return model, {
        "layers": len(report.quantized),
        "left_alone": [row.name for row in report.skipped],
        "scaled": sum(bool(row.source) for row in report.quantized),
        "error_ratio": round(statistics.median(ratios), 3),
        "seconds": round(seconds),
        "cpu_seconds": round(cpu_seconds),
    }


def most_sensitive(dense: nn.Module, data: Sequence[object], to: ek.Int8 | ek.Int4) -> str:
    """The layer that loses most when it alone is rounded, as calibration data show it."""
    scan = ek.sensitivity(dense, "kl", data, to, latency=False, progress=False)
    return max(scan.rows, key=lambda row: row.loss).name


def keep(
    path: Path, cases: Sequence[Case], case: Case, machine: dict[str, Any], about: dict[str, Any], row: dict[str, Any]
) -> None:
    """Adds the row of a case to the results in ``path``, which are in the order of ``cases``.

    Args:
        path: of the results.
        cases: all there are. Rows of others are let go.
        case: the one at hand.
        machine: what it was measured on.
        about: what the whole is about.
        row: what was found.
    """
    print(case.format, case.method, json.dumps(row), flush=True)
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = {(found["format"], found["method"]): found for found in known}
    config = case.scheme and case.scheme.to_dict()
    head = {"format": case.format, "method": case.method, "config": config, "load": machine["load"]}
    rows[case.format, case.method] = {**head, "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), **row}
    ordered = [rows[c.format, c.method] for c in cases if (c.format, c.method) in rows]
    path.write_text(json.dumps({**about, "machine": machine, "rows": ordered}, indent=2) + "\n")


def chosen(cases: Sequence[Case], only: str) -> list[Case]:
    """Those of a format, or the one of a format and a method; all for an empty string."""
    return [case for case in cases if only in ("", case.format, f"{case.format} {case.method}")]
