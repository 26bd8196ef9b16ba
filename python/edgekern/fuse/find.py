"""Finding the calls of a model's parts: by ``torch.fx``, by ``torch.export``, or by what ``nn.Sequential`` says."""

from __future__ import annotations

from torch import nn

from edgekern.fuse.by_export import NotExportable, calls_by_export
from edgekern.fuse.by_fx import OWN_CODE, NotTraceable, calls_by_fx
from edgekern.fuse.by_sequential import calls_by_sequential
from edgekern.fuse.calls import Calls
from edgekern.fuse.parts import Parts


def find_calls(model: nn.Module, parts: Parts, batch: object | None) -> Calls:
    """The calls of the parts, each with its readers, and obstacles where they cannot be told.

    What ``torch.fx`` finds holds for every input, so it comes first. Where it fails and there is a ``batch``,
    ``torch.export`` is asked how the model runs on that. What neither can tell, a sequence still may.
    """
    try:
        calls, closed = calls_by_fx(model, parts, batch)
    except NotTraceable as failure:
        calls, closed = Calls(), {model: str(failure)}
    way_out = "torch.export could try, given example_inputs"
    if batch is not None and any(cause != OWN_CODE for cause in closed.values()):
        try:
            return calls_by_export(model, parts, batch)
        except NotExportable as failure:
            way_out = f"nor can torch.export ({failure})"
    names = {module: name for name, module in model.named_modules()}
    for module, cause in closed.items():
        where = repr(names[module]) if names[module] else "the model"
        why = f"torch.fx cannot trace {where} ({cause}), {way_out}"
        if cause == OWN_CODE:
            why = f"it is inside of {where}, {cause}"
        calls.update(calls_by_sequential(model, parts, set(module.modules()), why))
    return calls
