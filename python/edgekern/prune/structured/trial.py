"""Trying cuts out before they are made: a wrong idea of what goes together shows here, and costs nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgekern.calibration.program import call_model
from edgekern.prune.structured.choose import Job, cuts_of, open_jobs
from edgekern.prune.structured.cut import Cut, Journal
from edgekern.prune.task import PruneError


def isolate_failures(journal: Journal, model: nn.Module, jobs: list[Job], batch: Any) -> None:
    """Tries all cuts at once; where that does not work, each by itself, and leaves the guilty groups alone.

    Those whose results cannot be foretold come last, so that they do not hide what is wrong with others.
    """
    exact = [job for job in open_jobs(jobs) if not job.group.mixing]
    if len(exact) < len(open_jobs(jobs)) and exact:
        isolate_failures(journal, model, exact, batch)
    if not _failure(journal, model, cuts_of(jobs), batch):
        return
    for job in open_jobs(jobs):
        job.reason = _failure(journal, model, cuts_of([job]), batch)
    together = _failure(journal, model, cuts_of(jobs), batch)
    if together:
        raise PruneError(f"each group can be shrunk by itself, but not all of them together: {together}")


def _failure(journal: Journal, model: nn.Module, cuts: list[Cut], batch: Any) -> str:
    """What is wrong with a model without these units; empty when nothing is."""
    if not cuts:
        return ""
    with journal.trying():
        journal.silence(cut for cut in cuts if not cut.group.mixing)
        expected = call_model(model, batch)
    with journal.trying():
        journal.take_out(cuts)
        try:
            got = call_model(model, batch)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return f"the model's code does not run without them: {lines[0]}"
    if [out.shape for out in got] != [out.shape for out in expected]:
        return f"outputs would become {[list(out.shape) for out in got]}, from {[list(out.shape) for out in expected]}"
    if any(cut.group.mixing for cut in cuts) or all(map(close, got, expected)):
        return ""
    return "taken out, they change more than what they said to the layers that read them"


def close(got: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding, which is of another order in smaller products."""
    if not got.is_floating_point():
        return torch.equal(got, expected)
    tolerance = 1e-4 if got.dtype in (torch.float32, torch.float64) else 3e-2
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(got, expected, rtol=0, atol=tolerance * scale, equal_nan=True)
