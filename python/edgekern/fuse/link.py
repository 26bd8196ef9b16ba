"""``link_``: converted convolutions that follow each other hand on 8-bit numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

from torch import nn

from edgekern.fuse.apply import FuseError
from edgekern.fuse.calls import Call, Calls
from edgekern.fuse.find import find_calls
from edgekern.fuse.obstacles import hands_on, hooked, obstacle_in_calls, watched
from edgekern.fuse.parts import parts_of
from edgekern.kernels import Range
from edgekern.nn import NativeConv2d
from edgekern.plan import check_model
from edgekern.table import Table


@dataclass(frozen=True)
class LinkRow:
    """What a converted convolution gives."""

    name: str
    linked: bool
    """Whether that is uint8, for the convolutions that read it."""
    reason: str
    """Why it is floats; empty when linked."""


@dataclass(frozen=True)
class LinkReport(Table[LinkRow]):
    """One row for each converted convolution that rounds its activations. Prints as a table, with rich too."""

    _HEADER: ClassVar[tuple[str, ...]] = ("Layer", "Gives", "Why")

    @property
    def linked(self) -> tuple[LinkRow, ...]:
        """Those that hand on uint8."""
        return tuple(row for row in self.rows if row.linked)

    def _cells(self) -> list[list[str]]:
        return [[row.name, "uint8" if row.linked else "floats", row.reason] for row in self.rows]

    def _totals(self) -> str:
        return f"{len(self.linked)} of {len(self.rows)} converted convolutions hand on uint8"

    def _is_dim(self, index: int) -> bool:
        return not self.rows[index].linked


def link_(model: nn.Module, example_inputs: Any = None) -> LinkReport:
    """Lets converted convolutions hand on uint8 where only such read what they give, in place.

    Where a convolution with static activations (``Int8(activations="static")``, or ``Int4``) reads the result of a
    converted one, that is rounded to the reader's range in any case. It can be as well before it is written: a quarter
    of the bytes go to memory and come back, and nothing is rounded twice. Results change by no more than that last
    rounding.

    This is done where every reader of a result is a convolution with one and the same range, and zeros around its
    images. Additions, pooling and all other code still get floats.

    Args:
        model: with converted convolutions. Calling this again settles anew what is linked.
        example_inputs: one batch, for ``torch.export`` where ``torch.fx`` cannot trace the model; see
            :func:`edgekern.fuse_`.

    Returns:
        For each converted convolution whether it hands on uint8, or why not; nothing of those in floats.

    Raises:
        TypeError: not a module.
        FuseError: there is no converted convolution in the model.
    """
    check_model(model, "link", FuseError)
    parts = parts_of(model)
    convs = [module for module in parts.layers if _rounds(module)]
    if not convs:
        raise FuseError(
            "model: there is no converted convolution in it; "
            "convert_(model, Int8(activations='static'), data=batches) makes them"
        )
    calls = find_calls(model, parts, example_inputs)
    outside = hooked(model, parts)
    rows = []
    for conv in convs:
        found = _range_of_readers(conv, calls, outside)
        conv.set_output_range(None if isinstance(found, str) else found)
        reason = found if isinstance(found, str) else ""
        rows.append(LinkRow(parts.name(conv), not reason, reason))
    return LinkReport(tuple(rows))


def _rounds(module: nn.Module) -> TypeGuard[NativeConv2d]:
    """Whether it is a converted convolution whose activations are 8-bit numbers."""
    return isinstance(module, NativeConv2d) and module.activations != ""


def _range_of_readers(conv: nn.Module, calls: Calls, outside: list[str]) -> Range | str:
    """The range by which all that reads a convolution's results rounds them; or why there is none."""
    if reason := obstacle_in_calls(conv, calls):
        return reason
    if conv._forward_hooks:
        return "has forward hooks, which would be given another result"
    ranges: set[Range] = set()
    for call in calls.of[conv]:
        for reader in _readers(call, calls):
            if isinstance(reader, str) or not _rounds(reader.module):
                return f"{reader if isinstance(reader, str) else reader.name!r} reads it as floats"
            if name := watched(call, reader, outside):
                return f"{name!r} has hooks, which would be given another result"
            given = reader.module.input_range
            if given is None:
                return f"{reader.name!r} finds the range of each image, having no static one"
            if reader.module.padding_mode != "zeros":
                return f"{reader.name!r} pads by {reader.module.padding_mode!r}, which takes floats"
            ranges.add(given)
    if len(ranges) == 1:
        return ranges.pop()
    return "nothing reads it" if not ranges else "its readers round by different ranges"


def _readers(call: Call, calls: Calls) -> Iterator[Call | str]:
    """What reads a result, also behind modules that only hand it on."""
    for reader in call.readers:
        if isinstance(reader, Call) and hands_on(reader.module):
            yield from _readers(reader, calls)
        else:
            yield reader
