"""A region of a frozen model: several int8 and int4 convolutions, and what is between them, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekern.nn.int8_steps import ADD, CONV2D, MAX_POOL, Path, Step, with_uint8_sums


class Int8Program(nn.Module):
    """Runs the steps of a program in one native call, as :func:`edgekern.freeze` puts it into a model.

    Input: images that the first layers take, ``[batch, channels, height, width]`` or one without ``batch``, float32,
    bfloat16, float16 or uint8. Output: what these steps would give one by one, bit for bit.

    The packed weights are the layers' own, not copies. It is of this machine alone: save the model it was made from.

    Args:
        steps: in the order they run; the last one makes the result.
        channels: of the input.
        takes_uint8: whether the input is uint8, by the range of the layers that read it.
    """

    def __init__(self, steps: Sequence[Step], channels: int, takes_uint8: bool = False) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.packed = [step.layer.packed for step in steps if step.layer is not None]
        places = iter(range(len(self.packed)))
        rows = [step.row(-1 if step.layer is None else next(places)) for step in steps]
        self.program = torch.tensor(rows, dtype=torch.int64, device="cpu")
        path = Path.through(steps, channels, takes_uint8)
        self._input = (channels, takes_uint8)
        self._known = (path.channels, path.windows, path.dtype, path.channels_last)
        self._op = torch.ops.edgekern.int8_conv2d_program.default

    def forward(self, input: Tensor) -> Tensor:
        """Runs all steps."""
        if input.dim() == 3:
            return self._op(input.unsqueeze(0), self.packed, self.program, *self._known).squeeze(0)
        return self._op(input, self.packed, self.program, *self._known)

    def with_uint8_sums(self) -> Int8Program:
        """Another one of the same layers, in which sums and poolings take uint8 where convolutions read it as well."""
        return Int8Program(with_uint8_sums(self.steps), *self._input).train(self.training)

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Program:
        """Another one of the same layers, which nothing changes."""
        copy = type(self).__new__(type(self))
        nn.Module.__init__(copy)
        vars(copy).update(
            {name: getattr(self, name) for name in ("steps", "packed", "program", "_input", "_known", "_op")}
        )
        return copy.train(self.training)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuses to be pickled: packed weights are for one kind of CPU."""
        raise TypeError(
            "a frozen model is for the machine that it was made on; save the model that it was made from with "
            "edgekern.save, and freeze it again where it is loaded"
        )

    def extra_repr(self) -> str:
        """How many steps of each kind."""
        kinds = [step.kind for step in self.steps]
        names = {CONV2D: "convolutions", ADD: "sums", MAX_POOL: "poolings"}
        return ", ".join(f"{kinds.count(kind)} {name}" for kind, name in names.items() if kind in kinds)
